package api

import (
	"strings"
	"testing"
)

func TestClaimAnswerValidate(t *testing.T) {
	node := &KubernetesNode{Name: "worker-1.example", UID: "7c2f8a1e-3f60-4a55-9d0e-0a2b4f6c8d10"}
	for name, row := range map[string]struct {
		answer ClaimAnswer
		wrong  []string // what the error must name; none for a good answer
	}{
		"accepted":                {ClaimAnswer{Accepted: true, Node: node}, nil},
		"accepted in its place":   {ClaimAnswer{Accepted: true, Node: node, Replaced: true}, nil},
		"refused":                 {ClaimAnswer{Reason: "the token is not for this audience"}, nil},
		"accepted without a node": {ClaimAnswer{Accepted: true}, []string{"node: is missing"}},
		"refused without reason":  {ClaimAnswer{}, []string{"reason: is empty"}},
		"refused with a node":     {ClaimAnswer{Reason: "no", Node: node}, []string{"a refused claim has none"}},
		"refused and replaced":    {ClaimAnswer{Reason: "no", Replaced: true}, []string{"a refused claim has none"}},
		"terminal codes":          {ClaimAnswer{Reason: "\x1b[2J"}, []string{"printable"}},
		"long reason":             {ClaimAnswer{Reason: strings.Repeat("a", MaxClaimReasonBytes+1)}, []string{"printable"}},
		"everything":              {ClaimAnswer{Accepted: true, Reason: "\n", Node: &KubernetesNode{Name: "-x", UID: ""}}, []string{"reason", "node.name", "node.uid"}},
		"upper-case name":         {ClaimAnswer{Accepted: true, Node: &KubernetesNode{Name: "Worker", UID: node.UID}}, []string{`"Worker"`}},
		"long name":               {ClaimAnswer{Accepted: true, Node: &KubernetesNode{Name: strings.Repeat("a", MaxNodeNameBytes+1), UID: node.UID}}, []string{"node.name"}},
		"long UID":                {ClaimAnswer{Accepted: true, Node: &KubernetesNode{Name: "w", UID: strings.Repeat("a", 81)}}, []string{"node.uid"}},
		"UID with a slash":        {ClaimAnswer{Accepted: true, Node: &KubernetesNode{Name: "w", UID: "../x"}}, []string{"node.uid"}},
	} {
		err := row.answer.Validate()
		if (err == nil) != (row.wrong == nil) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range row.wrong {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", name, err, want)
			}
		}
	}
}
