package wire

import (
	"cmp"
	"fmt"
	"strings"
)

// Version is a version of Keylime's API, such as 2.6. It is comparable.
type Version struct {
	Major, Minor int
}

// ParseVersion reads "2.6": one digit, a dot, one digit, as the reference does. A path's "v" is not part of it.
func ParseVersion(text string) (Version, error) {
	if len(text) != 3 || text[1] != '.' || !isDigit(text[0]) || !isDigit(text[2]) {
		return Version{}, fmt.Errorf("API version %.20q: want digit, dot, digit", text)
	}
	return Version{int(text[0] - '0'), int(text[2] - '0')}, nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// String returns "2.6".
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Compare returns -1, 0 or 1, the oldest version first.
func (v Version) Compare(other Version) int {
	return cmp.Or(cmp.Compare(v.Major, other.Major), cmp.Compare(v.Minor, other.Minor))
}

// KeyAlgorithm returns how this version writes a key algorithm that is given with its size. Before 2.5 the
// two sizes that existed had none: "rsa" is rsa2048, "ecc" is ecc256.
func (v Version) KeyAlgorithm(name string) string {
	if v.Compare(Version{2, 5}) < 0 {
		switch name {
		case "rsa2048":
			return "rsa"
		case "ecc256":
			return "ecc"
		}
	}
	return name
}

// SizedKeyAlgorithm undoes KeyAlgorithm for every version.
func SizedKeyAlgorithm(name string) string {
	switch name {
	case "rsa":
		return "rsa2048"
	case "ecc":
		return "ecc256"
	}
	return name
}

// AgentVersions returns the versions that a pull agent speaks, and so those of our registrar and our clients, oldest first.
func AgentVersions() []Version {
	return []Version{{2, 1}, {2, 2}, {2, 3}, {2, 4}, {2, 5}, {2, 6}}
}

// CurrentVersion returns the newest of AgentVersions.
func CurrentVersion() Version { return Version{2, 6} }

// VersionNames returns the text forms of AgentVersions.
func VersionNames() []string {
	var names []string
	for _, v := range AgentVersions() {
		names = append(names, v.String())
	}
	return names
}

// Negotiate returns the newest of AgentVersions that is among the peer's. Texts that are no version are passed over, as the reference
// does; ok is false when none is left.
func Negotiate(theirs []string) (newest Version, ok bool) {
	for _, text := range theirs {
		v, err := ParseVersion(text)
		if err == nil && v.supported() && v.Compare(newest) > 0 {
			newest, ok = v, true
		}
	}
	return newest, ok
}

func (v Version) supported() bool {
	return v.Major == 2 && v.Minor >= 1 && v.Minor <= CurrentVersion().Minor
}

// PathVersion reads the first segment of a path, "v2.6", or "v2", which stands for the newest of its major. An error's text is the
// reference's, whose clients look for it to negotiate again.
func PathVersion(segment string) (Version, error) {
	text, found := strings.CutPrefix(segment, "v")
	if found && text == "2" {
		return CurrentVersion(), nil
	}
	v, err := ParseVersion(text)
	if !found || err != nil || !v.supported() {
		return Version{}, fmt.Errorf("API version not supported: %.16s", segment)
	}
	return v, nil
}

// RegistrarVersionResults is what a registrar answers to GET /version.
type RegistrarVersionResults struct {
	CurrentVersion    string   `json:"current_version"`
	SupportedVersions []string `json:"supported_versions"`
}

// AgentVersionResults is what a pull agent answers to GET /version. Agents before 2.5 send no list.
type AgentVersionResults struct {
	SupportedVersion  string   `json:"supported_version"`
	SupportedVersions []string `json:"supported_versions,omitempty"`
}

// All returns the versions that the agent speaks.
func (r AgentVersionResults) All() []string {
	if len(r.SupportedVersions) == 0 {
		return []string{r.SupportedVersion}
	}
	return r.SupportedVersions
}
