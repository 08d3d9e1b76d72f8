package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

var (
	digestA = attest.SHA256.Sum([]byte("a"))
	digestB = attest.SHA256.Sum([]byte("b"))
	digestC = attest.SHA1.Sum([]byte("c"))
)

// fullRuntime uses every key of a Runtime document but verificationKeys.
func fullRuntime() string {
	return fmt.Sprintf(`# a comment
apiVersion: policy.assay/v1
kind: Runtime
metadata:
  name: web-servers_1.2
spec:
  digests:
    /usr/bin/a: [%[1]s]
    "/opt/my tool/b":
    - %[2]q
    - %[3]s
  excludes: ["/tmp/.*", "/var/my cache/[a-z ]+"]
  keyrings:
    .ima: [%[2]s]
  ignoredKeyrings: [.builtin_trusted_keys]
  imaBuffers:
    kernel_version: [%[1]s]
  imaPolicies: [%[2]s]
  imaPolicyPaths: [/etc/ima/ima-policy, "/etc/my policy"]
  earlyBoot: [/usr/lib/systemd/.*]
  allowWeakBank: true
  violations: [/var/log/.*]
  bootAggregates: [%[3]s]
`, digestA, digestB.Hex(), digestC)
}

func mustParse(t testing.TB, doc string) *Document {
	t.Helper()
	d, err := Parse([]byte(doc))
	if err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	return d
}

// runtimeDoc makes a document of a spec in JSON.
func runtimeDoc(spec string) string {
	return `{"apiVersion":"policy.assay/v1","kind":"Runtime","metadata":{"name":"n"},"spec":` + spec + `}`
}

func TestParseRuntime(t *testing.T) {
	doc := fullRuntime()
	d := mustParse(t, doc)
	want := attest.PolicyRef{Kind: KindRuntime, Name: "web-servers_1.2", Digest: attest.SHA256.Sum([]byte(doc))}
	if diff := cmp.Diff(want, d.Ref(), cmp.Comparer(func(a, b attest.Digest) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if string(d.Bytes()) != doc || d.Pcr() != nil || d.Kind() != KindRuntime || d.Name() != want.Name || d.Digest() != want.Digest {
		t.Errorf("document %+v", d.Ref())
	}
	if len(d.Warnings()) != 0 {
		t.Errorf("warnings %q", d.Warnings())
	}
	p := d.Runtime()
	got := map[string]any{
		"a":               p.File("/usr/bin/a", digestA).String(),
		"a, other digest": p.File("/usr/bin/a", digestB).String(),
		"a, no digest":    p.File("/usr/bin/a", attest.Digest{}).String(),
		"b":               p.File("/opt/my_tool/b", digestB).String(),
		"b, sha1":         p.File("/opt/my_tool/b", digestC).String(),
		"b, as written":   p.File("/opt/my tool/b", digestB).String(),
		"c":               p.File("/usr/bin/c", digestA).String(),
		"a, in bytes":     p.ApprovesFile([]byte("/usr/bin/a"), digestA.Bytes()),
		"others in bytes": p.ApprovesFile([]byte("/usr/bin/a"), digestB.Bytes()) || p.ApprovesFile([]byte("/usr/bin/c"), digestA.Bytes()) || p.ApprovesFile([]byte("/opt/my_tool/b"), digestC.Bytes()),
		"excluded":        p.Excludes("/tmp/x"),
		"excluded, space": p.Excludes("/var/my_cache/a_b"),
		"not excluded":    p.Excludes("/tmpfoo") || p.Excludes("/x/tmp/y") || p.Excludes("/var/my_cache/A"),
		"buffer":          p.Buffer("kernel_version", digestA).String(),
		"buffer, unknown": p.Buffer("other", digestA).String(),
		"keyring":         p.Keyring(".ima", digestB).String(),
		"keyring, other":  p.Keyring(".ima", digestA).String(),
		"ignored":         p.IgnoresKeyring(".builtin_trusted_keys"),
		"not ignored":     p.IgnoresKeyring(".ima"),
		"policies":        p.IMAPolicies(),
		"policy paths":    p.IMAPolicyPaths(),
		"early":           p.EarlyBoot("/usr/lib/systemd/systemd"),
		"not early":       p.EarlyBoot("/usr/lib/systemd"),
		"exempt":          p.ExemptsViolation("/var/log/x") && p.ExemptsViolation("/tmp/x"),
		"not exempt":      p.ExemptsViolation("/var/lib/x"),
		"aggregates":      p.BootAggregates(),
		"weak":            p.AllowsWeakBank(),
		"keys":            len(p.Keys()),
		"digests of b":    p.FileDigests("/opt/my_tool/b"),
		"of a buffer":     p.BufferDigests("kernel_version"),
		"of a keyring":    p.KeyringDigests(".ima"),
	}
	expected := map[string]any{
		"a": "Approved", "a, other digest": "Differs", "a, no digest": "Differs", "b": "Approved", "b, sha1": "Approved", "b, as written": "Unlisted", "c": "Unlisted",
		"a, in bytes": true, "others in bytes": false,
		"excluded": true, "excluded, space": true, "not excluded": false,
		"buffer": "Approved", "buffer, unknown": "Unlisted", "keyring": "Approved", "keyring, other": "Differs",
		"ignored": true, "not ignored": false, "policies": []attest.Digest{digestB}, "policy paths": []string{PolicyPath, "/etc/my_policy"},
		"early": true, "not early": false, "exempt": true, "not exempt": false, "aggregates": []attest.Digest{digestC}, "weak": true, "keys": 0,
		"digests of b": []attest.Digest{digestB, digestC}, "of a buffer": []attest.Digest{digestA}, "of a keyring": []attest.Digest{digestB},
	}
	if diff := cmp.Diff(expected, got, cmp.Comparer(func(a, b attest.Digest) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if paths, digests := p.Files(); paths != 2 || digests != 3 {
		t.Errorf("%d paths, %d digests", paths, digests)
	}
}

// TestZeroRuntimeApprovesNothing: what a forgotten value would say.
func TestZeroRuntimeApprovesNothing(t *testing.T) {
	var p Runtime
	if p.File("/x", attest.Digest{}) != Unlisted || p.ApprovesFile(nil, nil) || p.Excludes("") || p.Buffer("", attest.Digest{}) != Unlisted || p.AllowsWeakBank() || p.ExemptsViolation("") {
		t.Error("the zero Runtime approves something")
	}
}

func TestJSONIsTheSameDocument(t *testing.T) {
	spec := fmt.Sprintf(`{"digests":{"/usr/bin/a":[%q]}}`, digestA)
	fromJSON := mustParse(t, runtimeDoc(spec))
	fromYAML := mustParse(t, "apiVersion: policy.assay/v1\nkind: Runtime\nmetadata: {name: \"n\"}\nspec: "+spec)
	for _, d := range []*Document{fromJSON, fromYAML} {
		if d.Runtime().File("/usr/bin/a", digestA) != Approved {
			t.Errorf("%s", d.Bytes())
		}
	}
	if fromJSON.Digest() == fromYAML.Digest() {
		t.Error("two texts with one digest")
	}
}

func TestWarnings(t *testing.T) {
	for _, test := range []struct{ spec, want string }{
		{`{}`, "spec.imaPolicies lists no digest"},
		{fmt.Sprintf(`{"imaPolicies":[%[1]q],"digests":{"/a b":[%[1]q],"/a_b":[%[1]q]}}`, digestA), `recorded as "/a_b"`},
		{fmt.Sprintf(`{"imaPolicies":[%[1]q],"digests":{"a":[%[1]q]}}`, digestA), "does not begin with a slash"},
		{fmt.Sprintf(`{"imaPolicies":[%q],"excludes":["/.*"]}`, digestA), `exclude "/.*" takes every file`},
		{fmt.Sprintf(`{"imaPolicies":[%q],"earlyBoot":["/bin/a"%s]}`, digestA, strings.Repeat(`,"/bin/a"`, manyEarly)), "lets 101 patterns come before"},
	} {
		if got := mustParse(t, runtimeDoc(test.spec)).Warnings(); len(got) != 1 || !strings.Contains(got[0], test.want) {
			t.Errorf("%s: warnings %q, want %q", test.spec, got, test.want)
		}
	}
}

// TestPathsThatCollideAreUnited: a document lists "/a b" and "/a_b"; the kernel records both alike.
func TestPathsThatCollideAreUnited(t *testing.T) {
	p := mustParse(t, runtimeDoc(fmt.Sprintf(`{"digests":{"/a b":[%q],"/a_b":[%q]}}`, digestA, digestB))).Runtime()
	if p.File("/a_b", digestA) != Approved || p.File("/a_b", digestB) != Approved || p.File("/a_b", digestC) != Differs {
		t.Errorf("digests %v", p.FileDigests("/a_b"))
	}
}

func TestParseRefuses(t *testing.T) {
	hex64 := digestA.Hex()
	for name, test := range map[string]struct {
		doc  string
		want []string // every one of them in the error
	}{
		"empty":                {"", []string{"document: is null and not an object"}},
		"a list":               {"- a\n", []string{"is a list and not an object"}},
		"not UTF-8":            {"\xff", []string{"not UTF-8"}},
		"broken JSON":          {"{\n\n\"a\": x}", []string{"line 3: invalid character 'x'"}},
		"cut JSON":             {`{"apiVersion":`, []string{"unexpected EOF"}},
		"JSON and more":        {runtimeDoc("{}") + "{}", []string{"text after the document"}},
		"broken YAML":          {"a: [", []string{"yaml: line 1"}},
		"two YAML documents":   {"# c\n---\na: 1\n---\nb: 1\n", []string{"line 4: a second YAML document"}},
		"duplicate YAML keys":  {"a: 1\nb: 1\na: 2\nb: 3\n", []string{`line 3: key "a" is there twice`, `line 4: key "b" is there twice`}},
		"duplicate JSON keys":  {"{\"kind\":1,\n\"kind\":2,\"spec\":{\"x\":1,\"x\":1}}", []string{"line 2: kind: the key is there twice", "spec.x: the key is there twice"}},
		"deep":                 {`{"a":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + "}", []string{"more than 16 levels"}},
		"nothing there":        {"{}", []string{"apiVersion: is missing", "kind: is missing", "metadata: is missing", "spec: is missing"}},
		"other version":        {strings.Replace(runtimeDoc("{}"), "/v1", "/v9", 1), []string{`apiVersion: "policy.assay/v9" is not policy.assay/v1`}},
		"other kind":           {strings.Replace(runtimeDoc("{}"), "Runtime", "Boot", 1), []string{`kind: "Boot" is none of Runtime, Pcr`}},
		"unknown keys":         {strings.Replace(runtimeDoc(`{"digest":{}}`), `"spec"`, `"status":{},"spec"`, 1), []string{"status: unknown key", "spec.digest: unknown key; known are digests, excludes"}},
		"bad name":             {strings.Replace(runtimeDoc("{}"), `"n"`, `"-n"`, 1), []string{`metadata.name: name "-n": byte 0`}},
		"long name":            {strings.Replace(runtimeDoc("{}"), `"n"`, `"`+strings.Repeat("n", 254)+`"`, 1), []string{"name of 254 bytes"}},
		"no name":              {strings.Replace(runtimeDoc("{}"), `"n"`, `""`, 1), []string{"name is empty"}},
		"a number for a name":  {strings.Replace(runtimeDoc("{}"), `"n"`, `7`, 1), []string{"metadata.name: is a number and not a string; put it in quotes"}},
		"case of a key":        {runtimeDoc(`{"Digests":{}}`), []string{"spec.Digests: unknown key"}},
		"digest":               {runtimeDoc(`{"digests":{"/a":["abc","` + hex64 + `","sha256:00","md5:00","` + strings.ToUpper(hex64) + `"]}}`), []string{`spec.digests["/a"][0]: digest "abc": 3 digits`, `["/a"][2]`, `["/a"][3]: digest "md5:00": unknown hash`, `["/a"][4]`, "lower case"}},
		"no digest":            {runtimeDoc(`{"digests":{"/a":[]}}`), []string{`spec.digests["/a"]: lists no digest`}},
		"no list":              {runtimeDoc(`{"digests":{"/a":"` + hex64 + `"}}`), []string{`spec.digests["/a"]: is a string and not a list`}},
		"unquoted digits":      {"apiVersion: policy.assay/v1\nkind: Runtime\nmetadata: {name: n}\nspec: {digests: {/a: [" + strings.Repeat("1", 64) + "]}}", []string{"is a number and not a string; put it in quotes"}},
		"boot_aggregate":       {runtimeDoc(`{"digests":{"boot_aggregate":["` + hex64 + `"]}}`), []string{"spec.bootAggregates"}},
		"boot aggregate":       {runtimeDoc(`{"digests":{"boot aggregate":["` + hex64 + `"]}}`), []string{"spec.bootAggregates"}},
		"two bad patterns":     {runtimeDoc(`{"excludes":["/a(","/ok",""],"earlyBoot":["(?=a)"]}`), []string{`spec.excludes[0]: pattern "/a(": error parsing regexp: missing closing )`, "spec.excludes[2]: pattern is empty", `spec.earlyBoot[0]: pattern "(?=a)"`}},
		"long pattern":         {runtimeDoc(`{"violations":["` + strings.Repeat("a", MaxPatternBytes+1) + `"]}`), []string{"pattern of 4097 bytes"}},
		"no boolean":           {runtimeDoc(`{"allowWeakBank":"yes"}`), []string{"spec.allowWeakBank: is a string and not a boolean"}},
		"no key":               {runtimeDoc(`{"verificationKeys":["x"]}`), []string{"spec.verificationKeys[0]: is no PEM block"}},
		"PCR spec":             {pcrDoc(`{}`), []string{"spec.pcrs: is missing"}},
		"PCR bank":             {pcrDoc(`{"pcrs":{"md5":{}}}`), []string{`spec.pcrs["md5"]: unknown hash algorithm`}},
		"PCR indices":          {pcrDoc(`{"pcrs":{"sha256":{"24":["` + hex64 + `"],"x":["` + hex64 + `"],"07":["` + hex64 + `"],"-1":["` + hex64 + `"]}}}`), []string{`["24"]: is no PCR`, `.x: is no PCR`, `["07"]: is no PCR`, `["-1"]: is no PCR`}},
		"PCRs of others":       {pcrDoc(`{"pcrs":{"sha256":{"10":["` + hex64 + `"],"16":["` + hex64 + `"],"23":["` + hex64 + `"]}}}`), []string{"PCR 10 is left", "PCR 16 is left", "PCR 23 is left"}},
		"value of other bank":  {pcrDoc(`{"pcrs":{"sha1":{"0":["` + hex64 + `"]}}}`), []string{"is no value of bank sha1"}},
		"PCR without a value":  {pcrDoc(`{"pcrs":{"sha256":{"0":[]}}}`), []string{`["0"]: lists no digest`}},
		"unknown key for PCRs": {pcrDoc(`{"pcrs":{},"mask":1}`), []string{"spec.mask: unknown key; known are pcrs"}},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Parse([]byte(test.doc))
			if err == nil || d != nil {
				t.Fatalf("accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestManyMistakesAreCounted(t *testing.T) {
	var keys []string
	for i := range maxProblems + 5 {
		keys = append(keys, fmt.Sprintf(`"k%d":1`, i))
	}
	_, err := Parse([]byte(runtimeDoc("{" + strings.Join(keys, ",") + "}")))
	if err == nil || strings.Count(err.Error(), "unknown key") != maxProblems || !strings.Contains(err.Error(), "and 5 more mistakes") {
		t.Errorf("error %v", err)
	}
}

func TestParseRefusesTooMuch(t *testing.T) {
	_, err := Parse(make([]byte, MaxDocumentBytes+1))
	if err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("error %v", err)
	}
}

func pcrDoc(spec string) string {
	return `{"apiVersion":"policy.assay/v1","kind":"Pcr","metadata":{"name":"n"},"spec":` + spec + `}`
}

func TestParsePcr(t *testing.T) {
	d := mustParse(t, fmt.Sprintf("apiVersion: policy.assay/v1\nkind: Pcr\nmetadata: {name: fw}\nspec:\n  pcrs:\n    sha256:\n      0: [%s, %s]\n      7: [%s]\n",
		digestA, digestB.Hex(), digestB))
	p := d.Pcr()
	if got := p.Selection(attest.SHA256).String(); got != "sha256:0,7" {
		t.Errorf("selection %s", got)
	}
	if diff := cmp.Diff([]attest.Digest{digestA, digestB}, p.Allowed(attest.SHA256, 0), cmp.Comparer(func(a, b attest.Digest) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if p.Allowed(attest.SHA1, 0) != nil || p.Allowed(attest.SHA256, 1) != nil || p.Allowed(attest.SHA256, -1) != nil || p.Selection(attest.SHA1).Len() != 0 {
		t.Error("values that are not listed")
	}
	if got := d.Explain("/x"); len(got) != 1 || !strings.Contains(got[0], "says nothing of files") {
		t.Errorf("explained as %q", got)
	}
	for spec, want := range map[string]string{
		fmt.Sprintf(`{"pcrs":{"sha384":{"0":[%q]}}}`, attest.SHA384.Sum()): "no bank sha256",
		fmt.Sprintf(`{"pcrs":{"sha256":{"11":[%q]}}}`, digestA):            "container measurement extends PCR 11",
	} {
		if got := mustParse(t, pcrDoc(spec)).Warnings(); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%s: warnings %q", spec, got)
		}
	}
}

func TestLoad(t *testing.T) {
	native := mustParse(t, runtimeDoc(fmt.Sprintf(`{"digests":{"/a":[%q]}}`, digestA)))
	keylime, err := ImportKeylime([]byte(keylimeDoc("{}")), "from-keylime")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []*Document{native, keylime} {
		loaded, err := Load(d.Ref(), d.Bytes())
		if err != nil || loaded.Ref() != d.Ref() || loaded.Runtime() == nil {
			t.Errorf("%s: %v %v", d.Name(), loaded, err)
		}
	}
	other := native.Ref()
	other.Name = "other"
	for name, bad := range map[string]struct {
		ref attest.PolicyRef
		doc []byte
	}{
		"other bytes":     {native.Ref(), append(native.Bytes(), '\n')},
		"other name":      {other, native.Bytes()},
		"nothing":         {attest.PolicyRef{}, nil},
		"a bad name":      {attest.PolicyRef{Kind: KindRuntime, Name: "/", Digest: keylime.Digest()}, keylime.Bytes()},
		"a kind not ours": {attest.PolicyRef{Kind: KindPcr, Name: "from-keylime", Digest: keylime.Digest()}, keylime.Bytes()},
	} {
		if d, err := Load(bad.ref, bad.doc); err == nil || d != nil {
			t.Errorf("%s: loaded", name)
		}
	}
}

func TestExplain(t *testing.T) {
	d := mustParse(t, fullRuntime())
	for name, want := range map[string][]string{
		"/usr/bin/a":               {"File with 1 digests: [" + digestA.String() + "]."},
		"/opt/my tool/b":           {`recorded`, "File with 2 digests"},
		"/tmp/x":                   {`exclude "/tmp/.*"`},
		"/usr/lib/systemd/systemd": {"earlyBoot"},
		"/var/log/x":               {"violations are exempt"},
		PolicyPath:                 {"Place of the IMA policy; 1 digests"},
		"kernel_version":           {"Measured buffer"},
		".ima":                     {"Keyring with 1 approved keys"},
		"boot_aggregate":           {"hash over the quoted boot PCRs, or one of 1 further"},
		"/nowhere to be":           {`records "/nowhere to be" as "/nowhere_to_be"`, "does not approve it"},
		"/nowhere":                 {"does not approve it"},
	} {
		got := strings.Join(d.Explain(name), "\n")
		for _, w := range want {
			if !strings.Contains(got, strings.Replace(w, "recorded", "records", 1)) {
				t.Errorf("%s: %q does not say %q", name, got, w)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(fullRuntime()))
	f.Add([]byte(runtimeDoc(fmt.Sprintf(`{"digests":{"/a":[%q]},"excludes":["/tmp/.*"]}`, digestA))))
	f.Add([]byte(pcrDoc(fmt.Sprintf(`{"pcrs":{"sha256":{"0":[%q]}}}`, digestA))))
	f.Add([]byte("a: &a [*a]\n---\n"))
	f.Add([]byte("? [a]\n: {<<: 1}\n"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		d, err := Parse(doc)
		if (d == nil) == (err == nil) {
			t.Fatalf("document %v, error %v", d, err)
		}
		if err != nil {
			return
		}
		if again, err := Load(d.Ref(), d.Bytes()); err != nil || again.Ref() != d.Ref() {
			t.Fatalf("a parsed document does not load: %v", err)
		}
		d.Explain("/usr/bin/a b")
	})
}
