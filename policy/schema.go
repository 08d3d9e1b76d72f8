package policy

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed schema/*.json
var schemas embed.FS

// Schema returns the JSON Schema (draft 2020-12) of a kind of document. Parse judges more than a schema can say: that patterns compile, that keys
// are keys, that digests are of their bank.
func Schema(kind string) ([]byte, error) {
	text, err := schemas.ReadFile("schema/" + strings.ToLower(kind) + ".json")
	if err != nil {
		return nil, fmt.Errorf("schema of kind %.80q: %w", kind, err)
	}
	return text, nil
}
