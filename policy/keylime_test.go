package policy

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
)

// keylimeDoc makes a policy with the given digests.
func keylimeDoc(digests string) string {
	return `{"meta":{"version":1,"generator":2,"timestamp":"2026-11-20 12:00:00"},"release":0,"digests":` + digests + `,
 "excludes":["/tmp","^/var/log/.*\\Z","/opt/[]a]x"],"keyrings":{".ima":["` + digestB.Hex() + `"]},
 "ima":{"ignored_keyrings":["*"],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{"kernel_version":["` + digestA.Hex() + `"]},"verification-keys":""}`
}

func TestImportKeylime(t *testing.T) {
	doc := keylimeDoc(fmt.Sprintf(`{"/a":[%q],"/a b":[%q,%q],"boot_aggregate":[%q]}`, digestA.Hex(), digestB.Hex(), digestC.Hex(), digestB.Hex()))
	d, err := ImportKeylime([]byte(doc), "from_keylime")
	if err != nil {
		t.Fatal(err)
	}
	p := d.Runtime()
	for name, ok := range map[string]bool{
		"bytes":               string(d.Bytes()) == doc,
		"name":                d.Name() == "from_keylime" && d.Kind() == KindRuntime,
		"listed":              p.File("/a", digestA) == Approved,
		"with a space":        p.File("/a_b", digestB) == Approved,
		"sha1":                p.File("/a_b", digestC) == Approved,
		"differs":             p.File("/a", digestB) == Differs,
		"aggregate":           len(p.BootAggregates()) == 1 && p.File("boot_aggregate", digestB) == Unlisted,
		"prefix":              p.Excludes("/tmp") && p.Excludes("/tmpfoo") && p.Excludes("/tmp/x"),
		"start":               !p.Excludes("/x/tmp"),
		"anchored end":        p.Excludes("/var/log/a") && !p.Excludes("/var/log/a\nb"),
		"bracket in a class":  p.Excludes("/opt/]x") && p.Excludes("/opt/ax") && !p.Excludes("/opt/x"),
		"keyring":             p.Keyring(".ima", digestB) == Approved,
		"all are ignored":     p.IgnoresKeyring(".anything"),
		"buffer":              p.Buffer("kernel_version", digestA) == Approved,
		"violations count":    !p.ExemptsViolation("/a"),
		"no weak bank":        !p.AllowsWeakBank(),
		"policy is not asked": len(p.IMAPolicies()) == 0,
		"no warnings":         len(d.Warnings()) == 0,
	} {
		if !ok {
			t.Errorf("%s: not so", name)
		}
	}
}

// TestImportKeylimeCapture reads a policy that Keylime's tools made and Keylime 7.14.3 used.
func TestImportKeylimeCapture(t *testing.T) {
	doc, err := os.ReadFile("testdata/keylime-runtime-policy.json")
	if err != nil {
		t.Fatal(err)
	}
	d, err := ImportKeylime(doc, "capture")
	if err != nil {
		t.Fatal(err)
	}
	if d.Runtime().File("/usr/bin/a", digestA) != Approved || d.Runtime().File("/usr/bin/b", digestA) != Differs || !d.Runtime().Excludes("/tmp/x") {
		t.Errorf("digests %v", d.Runtime().FileDigests("/usr/bin/a"))
	}
}

func TestImportKeylimeKeys(t *testing.T) {
	key := newKeys(t)[0]
	inner := fmt.Sprintf(`{"meta":{"version":1},"keyids":[4081364275],"pubkeys":[%q]}`, base64.StdEncoding.EncodeToString(key.spki))
	doc := strings.Replace(keylimeDoc("{}"), `"verification-keys":""`, fmt.Sprintf(`"verification-keys":%q`, inner), 1)
	d, err := ImportKeylime([]byte(doc), "n")
	if err != nil {
		t.Fatal(err)
	}
	if keys := d.Runtime().Keys(); len(keys) != 1 || keys[0].ID != 4081364275 {
		t.Errorf("keys %v", keys)
	}
	for inner, want := range map[string]string{
		`[]`:                                "nor the text of a JSON object",
		`{"keyids":[1],"keyids":[1]}`:       "is there twice",
		`{"keyids":[1]}`:                    "pubkeys: is missing",
		`{"keyids":[1],"pubkeys":[]}`:       "1 keyids and 0 pubkeys",
		`{"keyids":[-1],"pubkeys":["AA"]}`:  "no whole number from 0 to 4294967295",
		`{"keyids":[1],"pubkeys":["?"]}`:    "is no base64",
		`{"keyids":[1],"pubkeys":["AA=="]}`: "neither a certificate nor a public key",
	} {
		doc := strings.Replace(keylimeDoc("{}"), `"verification-keys":""`, fmt.Sprintf(`"verification-keys":%q`, inner), 1)
		if _, err := ImportKeylime([]byte(doc), "n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", inner, err, want)
		}
	}
}

func TestImportKeylimeRefuses(t *testing.T) {
	good := keylimeDoc("{}")
	for name, test := range map[string]struct {
		doc  string
		want []string
	}{
		"YAML":             {"meta: {}", []string{"is a JSON object"}},
		"nothing there":    {"{}", []string{"meta: is missing", "release: is missing", "digests: is missing", "excludes: is missing", "keyrings: is missing", "ima: is missing", `["ima-buf"]: is missing`, `["verification-keys"]: is missing`}},
		"version":          {strings.Replace(good, `"version":1`, `"version":2`, 1), []string{"meta.version: 2 is not 1"}},
		"fraction":         {strings.Replace(good, `"version":1`, `"version":1.0`, 1), []string{"1.0 is no whole number"}},
		"empty allow list": {strings.Replace(good, `"generator":2`, `"generator":1`, 1), []string{"meta.generator: with 1 Keylime does not appraise"}},
		"unknown maker":    {strings.Replace(good, `"generator":2`, `"generator":9`, 1), []string{"meta.generator: 9 is no whole number from 0 to 3"}},
		"release":          {strings.Replace(good, `"release":0`, `"release":-1`, 1), []string{"release: -1"}},
		"dm policy":        {strings.Replace(good, `"dm_policy":null`, `"dm_policy":{}`, 1), []string{"ima[\"dm_policy\"]"}},
		"column":           {strings.Replace(good, `"sha1"`, `"md5"`, 1), []string{"unknown hash algorithm \"md5\""}},
		"digests":          {keylimeDoc(`{"/a":["sha256:` + digestA.Hex() + `","xy"],"/b":[]}`), []string{`digests["/a"][0]`, `digests["/a"][1]`, `digests["/b"]: lists no digest`}},
		"twice":            {keylimeDoc(`{"/a":["` + digestA.Hex() + `"],"/a":["` + digestB.Hex() + `"]}`), []string{`digests["/a"]: the key is there twice`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ImportKeylime([]byte(test.doc), "n")
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
	if _, err := ImportKeylime([]byte(good), "a/b"); err == nil {
		t.Error("a bad name was accepted")
	}
}

// TestImportKeylimeWarns: legal in Keylime, and without the effect that its author may expect.
func TestImportKeylimeWarns(t *testing.T) {
	sha224 := strings.Repeat("ab", 28)
	doc := strings.Replace(keylimeDoc(`{"/a":["`+sha224+`"]}`), `"release":0`, `"release":0,"hashes":{}`, 1)
	doc = strings.Replace(doc, `"/tmp",`, `"",`, 1)
	d, err := ImportKeylime([]byte(doc), "n")
	if err != nil {
		t.Fatal(err)
	}
	warnings := strings.Join(d.Warnings(), "\n")
	for _, want := range []string{`"hashes" means nothing`, "56 digits are of no algorithm", `exclude "" takes every file`} {
		if !strings.Contains(warnings, want) {
			t.Errorf("warnings %q do not say %q", warnings, want)
		}
	}
	if d.Runtime().File("/a", digestA) != Differs {
		t.Error("the path is listed, though no digest of it can match")
	}
}

// TestPythonPatterns: what Python's re reads otherwise than RE2 is translated or refused, never taken silently.
func TestPythonPatterns(t *testing.T) {
	for _, test := range []struct {
		source, path string
		match        bool
		refused      string
	}{
		{source: `/tmp`, path: "/tmpfoo", match: true},
		{source: `/tmp$`, path: "/tmpfoo"},
		{source: `/tmp\Z`, path: "/tmp", match: true},
		{source: `/tmp\Z`, path: "/tmp/x"},
		{source: `/a|/b`, path: "/bc", match: true},
		{source: `/a|/b`, path: "/c/b"},
		{source: `/(?P<x>a)(?:b)`, path: "/abc", match: true},
		{source: `/[^]a]`, path: "/b", match: true},
		{source: `/[^]a]`, path: "/]"},
		{source: `/[\b]`, path: "/\b", match: true},
		{source: `(?i)/TMP`, path: "/tmp", match: true},
		{source: `/a{2}`, path: "/aa", match: true},
		{source: `/\/a`, path: "//a", match: true},
		{source: `/(?=a)`, refused: "look-ahead (?="},
		{source: `/(?!a)`, refused: "look-ahead (?!"},
		{source: `/(?<=a)`, refused: "look-behind (?<="},
		{source: `/(?<!a)`, refused: "look-behind (?<!"},
		{source: `/(?P<x>a)(?P=x)`, refused: "backreference (?P="},
		{source: `/(a)\1`, refused: `backreference or octal escape \1`},
		{source: `/(a)(?(1)b|c)`, refused: "condition (?("},
		{source: `/(?>a)`, refused: "atomic group (?>"},
		{source: `/(?#a)`, refused: "comment (?#"},
		{source: `/(?<x>a)`, refused: "group (?<"},
		{source: `/a{,3}`, refused: "{, without a lower bound"},
		{source: `/[[:alpha:]]`, refused: "[: in a character class"},
		{source: `/a++`, refused: "invalid nested repetition"},
		{source: `/a\z`, refused: `\z is no escape`},
		{source: `/\pL`, refused: `\p is no escape`},
		{source: `/(a`, refused: "missing closing )"},
		{source: `/a\`, refused: "trailing backslash"},
		{source: strings.Repeat("a", MaxPatternBytes+1), refused: "more than 4096"},
	} {
		p, err := compilePrefix(test.source)
		if test.refused != "" {
			if err == nil || !strings.Contains(err.Error(), test.refused) {
				t.Errorf("%.40s: error %v, want %q", test.source, err, test.refused)
			}
			continue
		}
		if err != nil || p.match(test.path) != test.match {
			t.Errorf("%s: %q: %v, error %v", test.source, test.path, !test.match, err)
		}
	}
}

func FuzzImportKeylime(f *testing.F) {
	f.Add([]byte(keylimeDoc(fmt.Sprintf(`{"/a":[%q]}`, digestA.Hex()))))
	f.Add([]byte(keylimeDoc(`{"boot_aggregate":["` + digestC.Hex() + `"]}`)))
	f.Add([]byte(strings.Replace(keylimeDoc("{}"), `"verification-keys":""`, `"verification-keys":"{\"keyids\":[1],\"pubkeys\":[\"AA==\"]}"`, 1)))
	f.Add([]byte(strings.Replace(keylimeDoc("{}"), "/tmp", `(?P<a>[]x])\\Z`, 1)))
	f.Fuzz(func(t *testing.T, doc []byte) {
		d, err := ImportKeylime(doc, "n")
		if (d == nil) == (err == nil) {
			t.Fatalf("document %v, error %v", d, err)
		}
		if err != nil {
			return
		}
		if _, err := Load(d.Ref(), d.Bytes()); err != nil {
			t.Fatalf("an imported policy does not load: %v", err)
		}
		d.Runtime().Excludes("/tmp/x")
	})
}
