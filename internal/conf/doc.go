// Package conf reads a program's configuration: one YAML file into one documented struct, each key of which an environment variable
// overrides. Unknown keys are refused, and every mistake is reported at once.
//
// The keys are the json tags of the struct, case and all. The variable of a key is ASSAY_ and its path in upper case, joined by "_":
// listen.native is ASSAY_LISTEN_NATIVE. A text is taken as it is, a list is separated by commas, anything else is a YAML value. What the values
// mean is left to the struct: where it, or a struct in it, has the method Check() error, that is called after everything is read.
package conf
