// Package nfd asks the rules engine of Node Feature Discovery what it makes of our rule.
package nfd

import (
	"maps"
	"os"
	"testing"

	nfdv1alpha1 "sigs.k8s.io/node-feature-discovery/api/nfd/v1alpha1"
	"sigs.k8s.io/node-feature-discovery/pkg/apis/nfd/nodefeaturerule"
	"sigs.k8s.io/yaml"
)

// TestRule: a node whose kernel loaded a TPM's driver gets the label; a node with other modules, or with a driver that is only there, gets none.
func TestRule(t *testing.T) {
	text, err := os.ReadFile("../../deploy/nfd/tpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var object nfdv1alpha1.NodeFeatureRule
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		t.Fatal(err)
	}
	if len(object.Spec.Rules) != 1 {
		t.Fatalf("%d rules", len(object.Spec.Rules))
	}
	label := map[string]string{"feature.node.kubernetes.io/tpm": "true"}
	for name, row := range map[string]struct {
		loaded, enabled []string
		want            map[string]string
	}{
		"a TPM over TIS":                  {[]string{"overlay", "tpm_tis"}, nil, label},
		"a TPM over SPI":                  {[]string{"tpm_tis_spi"}, nil, label},
		"a firmware TPM":                  {[]string{"tpm_crb"}, nil, label},
		"a virtual TPM of a hypervisor":   {[]string{"tpm_ibmvtpm"}, nil, label},
		"no TPM":                          {[]string{"overlay", "tpm"}, nil, nil},
		"no module at all":                {nil, nil, nil},
		"a driver that is only built in":  {[]string{"overlay"}, []string{"overlay", "tpm_tis", "tpm_crb"}, nil},
		"an emulator's proxy, which lies": {[]string{"tpm_vtpm_proxy"}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			features := nfdv1alpha1.NewFeatures()
			features.Flags["kernel.loadedmodule"] = nfdv1alpha1.NewFlagFeatures(row.loaded...)
			features.Flags["kernel.enabledmodule"] = nfdv1alpha1.NewFlagFeatures(row.enabled...)
			out, err := nodefeaturerule.Execute(&object.Spec.Rules[0], features, true)
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(out.Labels, row.want) {
				t.Errorf("labels %v, want %v", out.Labels, row.want)
			}
		})
	}
}
