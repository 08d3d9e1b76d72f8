// Package assay is the root of the module: it holds no code, only the test that keeps the layout (structure_test.go).
//
// Start with README.md for what Assay does and ARCHITECTURE.md for where everything is.
package assay
