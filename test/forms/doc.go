// Package forms holds the tests of the forms that a person chooses in the chart's values and that a default installation does not take: agents that are
// privileged, an IMA policy that agents install, certificates of cert-manager. They run in a real cluster, with real cert-manager controllers, and
// one after the other in one story, whose steps build on each other.
package forms
