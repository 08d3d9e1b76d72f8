package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// schema is as much of JSON Schema as ours use. An unknown keyword ends the test.
type schema struct {
	t    *testing.T
	defs map[string]any
}

func newSchema(t *testing.T, kind string) (schema, map[string]any) {
	t.Helper()
	text, err := Schema(kind)
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatalf("schema of %s: %v", kind, err)
	}
	defs, _ := root["$defs"].(map[string]any)
	return schema{t, defs}, root
}

// valid judges a value by a schema.
func (s schema) valid(rule map[string]any, value any) bool {
	ok := true
	for _, keyword := range slices.Sorted(maps.Keys(rule)) {
		ok = s.keyword(rule, keyword, value) && ok
	}
	return ok
}

func (s schema) keyword(rule map[string]any, keyword string, value any) bool {
	argument := rule[keyword]
	text, isText := value.(string)
	items, isList := value.([]any)
	switch keyword {
	case "$schema", "$id", "$defs", "title", "description", "patternProperties", "properties":
		return true // the last two with additionalProperties
	case "$ref":
		return s.valid(s.defs[strings.TrimPrefix(argument.(string), "#/$defs/")].(map[string]any), value)
	case "type":
		return s.isType(argument.(string), value)
	case "const":
		return value == argument
	case "not":
		return !s.valid(argument.(map[string]any), value)
	case "pattern":
		return !isText || regexp.MustCompile(argument.(string)).MatchString(text)
	case "minLength":
		return !isText || len([]rune(text)) >= int(argument.(float64))
	case "maxLength":
		return !isText || len([]rune(text)) <= int(argument.(float64))
	case "minItems":
		return !isList || len(items) >= int(argument.(float64))
	case "maxItems":
		return !isList || len(items) <= int(argument.(float64))
	case "items":
		return !slices.ContainsFunc(items, func(item any) bool { return !s.valid(argument.(map[string]any), item) })
	case "required", "additionalProperties", "propertyNames":
		members, isObject := value.(map[string]any)
		return !isObject || s.object(rule, keyword, members)
	}
	s.t.Fatalf("keyword %s", keyword)
	return false
}

func (s schema) isType(name string, value any) bool {
	switch value.(type) {
	case map[string]any:
		return name == "object"
	case []any:
		return name == "array"
	case string:
		return name == "string"
	case bool:
		return name == "boolean"
	}
	return false
}

func (s schema) object(rule map[string]any, keyword string, members map[string]any) bool {
	if keyword == "required" {
		return !slices.ContainsFunc(rule[keyword].([]any), func(key any) bool { _, ok := members[key.(string)]; return !ok })
	}
	for key, value := range members {
		switch {
		case keyword == "propertyNames" && !s.valid(rule[keyword].(map[string]any), key):
			return false
		case keyword == "additionalProperties" && !s.member(rule, key, value):
			return false
		}
	}
	return true
}

func (s schema) member(rule map[string]any, key string, value any) bool {
	properties, _ := rule["properties"].(map[string]any)
	if property, ok := properties[key]; ok {
		return s.valid(property.(map[string]any), value)
	}
	byPattern, _ := rule["patternProperties"].(map[string]any)
	for pattern, property := range byPattern {
		if regexp.MustCompile(pattern).MatchString(key) {
			return s.valid(property.(map[string]any), value)
		}
	}
	rest, isRule := rule["additionalProperties"].(map[string]any)
	return isRule && s.valid(rest, value)
}

func TestSchemasAgreeWithParse(t *testing.T) {
	hex64 := digestA.Hex()
	for _, test := range []struct {
		name, doc string
		// parseOnly marks what no schema can say.
		ok, parseOnly bool
	}{
		{name: "full", doc: fullRuntime(), ok: true},
		{name: "empty", doc: runtimeDoc("{}"), ok: true},
		{name: "JSON", doc: runtimeDoc(`{"digests":{"/a":["` + hex64 + `","sha1:` + digestC.Hex() + `"]}}`), ok: true},
		{name: "unknown key", doc: runtimeDoc(`{"digest":{}}`)},
		{name: "unknown key on top", doc: strings.Replace(runtimeDoc("{}"), `"spec"`, `"status":{},"spec"`, 1)},
		{name: "name", doc: strings.Replace(runtimeDoc("{}"), `"n"`, `"-n"`, 1)},
		{name: "no spec", doc: `{"apiVersion":"policy.assay/v1","kind":"Runtime","metadata":{"name":"n"}}`},
		{name: "version", doc: strings.Replace(runtimeDoc("{}"), "/v1", "/v2", 1)},
		{name: "empty digests", doc: runtimeDoc(`{"digests":{"/a":[]}}`)},
		{name: "digest", doc: runtimeDoc(`{"digests":{"/a":["sha256:` + digestC.Hex() + `"]}}`)},
		{name: "upper case", doc: runtimeDoc(`{"digests":{"/a":["` + strings.ToUpper(hex64) + `"]}}`)},
		{name: "boot_aggregate", doc: runtimeDoc(`{"digests":{"boot_aggregate":["` + hex64 + `"]}}`)},
		{name: "boolean", doc: runtimeDoc(`{"allowWeakBank":1}`)},
		{name: "empty pattern", doc: runtimeDoc(`{"excludes":[""]}`)},
		{name: "bad pattern", doc: runtimeDoc(`{"excludes":["("]}`), parseOnly: true},
		{name: "key", doc: runtimeDoc(`{"verificationKeys":["x"]}`)},
		{name: "bad key", doc: runtimeDoc(`{"verificationKeys":["-----BEGIN PUBLIC KEY-----"]}`), parseOnly: true},
		{name: "twice", doc: runtimeDoc(`{"digests":{},"digests":{}}`), parseOnly: true},
		{name: "PCRs", doc: pcrDoc(`{"pcrs":{"sha256":{"0":["` + hex64 + `"],"22":["sha256:` + hex64 + `"]},"sha1":{}}}`), ok: true},
		{name: "no PCRs", doc: pcrDoc(`{}`)},
		{name: "bank", doc: pcrDoc(`{"pcrs":{"md5":{}}}`)},
		{name: "list PCR", doc: pcrDoc(`{"pcrs":{"sha256":{"10":["` + hex64 + `"]}}}`)},
		{name: "debug PCR", doc: pcrDoc(`{"pcrs":{"sha256":{"16":["` + hex64 + `"]}}}`)},
		{name: "application PCR", doc: pcrDoc(`{"pcrs":{"sha256":{"23":["` + hex64 + `"]}}}`)},
		{name: "index", doc: pcrDoc(`{"pcrs":{"sha256":{"24":["` + hex64 + `"]}}}`)},
		{name: "other bank's value", doc: pcrDoc(`{"pcrs":{"sha384":{"0":["` + hex64 + `"]}}}`)},
	} {
		kind := KindRuntime
		if strings.Contains(test.doc, `"Pcr"`) {
			kind = KindPcr
		}
		s, root := newSchema(t, kind)
		var value any
		if err := yaml.Unmarshal([]byte(test.doc), &value); err != nil {
			t.Fatal(err)
		}
		if got := s.valid(root, value); got != (test.ok || test.parseOnly) {
			t.Errorf("%s: the schema says %v", test.name, got)
		}
		if _, err := Parse([]byte(test.doc)); (err == nil) != test.ok {
			t.Errorf("%s: Parse says %v", test.name, err)
		}
	}
}

// TestSchemaNamesEveryKey: what the reader knows and what the schema knows cannot drift apart.
func TestSchemaNamesEveryKey(t *testing.T) {
	for kind, doc := range map[string]string{KindRuntime: runtimeDoc(`{"":0}`), KindPcr: pcrDoc(`{"":0}`)} {
		_, err := Parse([]byte(doc))
		if err == nil {
			t.Fatal("accepted")
		}
		_, list, _ := strings.Cut(strings.Split(err.Error(), "\n")[0], "known are ")
		known := strings.Split(list, ", ")
		_, root := newSchema(t, kind)
		spec := root["properties"].(map[string]any)["spec"].(map[string]any)["properties"].(map[string]any)
		slices.Sort(known)
		if got := slices.Sorted(maps.Keys(spec)); fmt.Sprint(got) != fmt.Sprint(known) {
			t.Errorf("%s: the schema knows %v, Parse knows %v", kind, got, known)
		}
	}
	if _, err := Schema("Boot"); err == nil {
		t.Error("a schema for a kind that there is not")
	}
}
