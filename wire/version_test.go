package wire

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseVersion(t *testing.T) {
	v, err := ParseVersion("2.6")
	if err != nil || v != CurrentVersion() || v.String() != "2.6" {
		t.Errorf("got %v, %v", v, err)
	}
	for _, text := range []string{"", "2", "2.", ".6", "2.66", "v2.6", "a.b", "2,6", "-.1", "2.6 "} {
		if _, err := ParseVersion(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestNegotiate(t *testing.T) {
	keylime := captured(t, "registrar.json", "version")
	var answer Envelope[RegistrarVersionResults]
	if err := json.Unmarshal([]byte(keylime.Response), &answer); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		theirs []string
		want   Version
		ok     bool
	}{
		{"Keylime's registrar", answer.Results.SupportedVersions, Version{2, 6}, true},
		{"Rust agent", VersionNames(), Version{2, 6}, true},
		{"old agent", AgentVersionResults{SupportedVersion: "2.1"}.All(), Version{2, 1}, true},
		{"unordered, with others", []string{"2.4", "nonsense", "9.9", "2.5", "2.2"}, Version{2, 5}, true},
		{"newer list beside the old member", AgentVersionResults{"2.1", []string{"2.3"}}.All(), Version{2, 3}, true},
		{"only v3", []string{"3.0"}, Version{}, false},
		{"only ancient", []string{"1.0", "2.0"}, Version{}, false},
		{"none", nil, Version{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := Negotiate(tt.theirs)
			if got != tt.want || ok != tt.ok {
				t.Errorf("got %v, %v", got, ok)
			}
		})
	}
}

func TestPathVersion(t *testing.T) {
	for segment, want := range map[string]Version{"v2": {2, 6}, "v2.1": {2, 1}, "v2.6": {2, 6}} {
		if got, err := PathVersion(segment); err != nil || got != want {
			t.Errorf("%s: got %v, %v", segment, got, err)
		}
	}
	for segment, want := range map[string]string{
		"v9.9":                    "API version not supported: v9.9",
		"v2.0":                    "API version not supported: v2.0",
		"v2.7":                    "API version not supported: v2.7",
		"v3.0":                    "API version not supported: v3.0",
		"v3":                      "API version not supported: v3",
		"2.6":                     "API version not supported: 2.6",
		"2":                       "API version not supported: 2",
		"v2.6666666666666666666x": "API version not supported: v2.6666666666666",
	} {
		if _, err := PathVersion(segment); err == nil || err.Error() != want {
			t.Errorf("%s: got %v", segment, err)
		}
	}
}

func TestKeyAlgorithm(t *testing.T) {
	type row struct{ old, new, back string }
	want := map[string]row{
		"rsa2048": {"rsa", "rsa2048", "rsa2048"},
		"rsa3072": {"rsa3072", "rsa3072", "rsa3072"},
		"ecc256":  {"ecc", "ecc256", "ecc256"},
		"ecc384":  {"ecc384", "ecc384", "ecc384"},
	}
	got := map[string]row{}
	for name := range want {
		old := Version{2, 4}.KeyAlgorithm(name)
		got[name] = row{old, Version{2, 5}.KeyAlgorithm(name), SizedKeyAlgorithm(old)}
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
		t.Error(diff)
	}
}

func TestAgentVersions(t *testing.T) {
	if diff := cmp.Diff([]string{"2.1", "2.2", "2.3", "2.4", "2.5", "2.6"}, VersionNames()); diff != "" {
		t.Error(diff)
	}
}
