// Package deploy holds what is installed: the chart with its CRDs, IMA policies, units. Here is what a program of ours carries of that.
package deploy

import "embed"

// CRDs returns the CustomResourceDefinitions that the chart installs, chart/crds/*.yaml, made from kube/v1alpha1.
func CRDs() embed.FS { return crds }

//go:embed chart/crds/*.yaml
var crds embed.FS
