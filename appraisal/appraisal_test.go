package appraisal

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/policy"
)

// set changes one key of the first Runtime document.
func set(key string, value any) func(*machine) {
	return func(m *machine) { m.runtimes[0][key] = value }
}

// measure adds entries at the end of the list.
func measure(entries ...measurement) func(*machine) {
	return func(m *machine) { m.entries = append(m.entries, entries...) }
}

// list approves a further file.
func list(name, text string) func(*machine) {
	return func(m *machine) {
		m.runtimes[0]["digests"].(map[string]any)[name] = []any{content(text).String()}
	}
}

func all(changes ...func(*machine)) func(*machine) {
	return func(m *machine) {
		for _, change := range changes {
			change(m)
		}
	}
}

func nothing(*machine) {}

func pcrSpec(p int, values ...string) map[string]any {
	var items []any
	for _, v := range values {
		items = append(items, content(v).String())
	}
	return map[string]any{"pcrs": map[string]any{"sha256": map[string]any{fmt.Sprint(p): items}}}
}

// faults are machines with one fault each. healthy is the same machine without the fault, and passes.
var faults = []struct {
	name    string
	healthy func(*machine)
	fault   func(*machine)
	want    attest.FailureID
	// says is in the failure's sentence, path is its path.
	says, path string
}{
	{"unlisted file", measure(file("/usr/bin/a", "old a")), measure(file("/usr/bin/evil", "x")), attest.FileNotInPolicy, `"/usr/bin/evil" with digest`, "/usr/bin/evil"},
	{"relative name", nothing, measure(file("memfd:evil", "a")), attest.FileNotInPolicy, "is not listed", "memfd:evil"},
	{"changed file", nothing, measure(file("/usr/bin/a", "changed")), attest.FileDigestMismatch, "not one of those", "/usr/bin/a"},
	{"other algorithm", nothing, measure(measurement{digest: attest.SHA1.Sum([]byte("a")), name: "/usr/bin/a"}), attest.FileDigestMismatch, "sha1:", "/usr/bin/a"},
	{"fs-verity digest", nothing, measure(measurement{template: "ima-sigv2", digest: content("a"), name: "/usr/bin/a"}), attest.FileDigestMismatch, "", "/usr/bin/a"},
	{"exclude is anchored", measure(file("/tmp/x", "x")), measure(file("/tmpx", "x")), attest.FileNotInPolicy, "", "/tmpx"},
	{"violation", set("violations", []any{"/var/log/.*"}), measure(measurement{digest: content(""), name: "/usr/bin/a", violation: true}), attest.Violation, "which no PCR covers", "/usr/bin/a"},
	{"violation of another path", all(set("violations", []any{"/var/log/.*"}), measure(measurement{digest: content(""), name: "/var/log/x", violation: true})),
		measure(measurement{digest: content(""), name: "/var/x", violation: true}), attest.Violation, "", "/var/x"},
	{"boot_aggregate of another machine", nothing, func(m *machine) { m.boot[4] = content("other loader") }, attest.BootAggregateMismatch, "not the hash over the quoted", "boot_aggregate"},
	{"boot_aggregate of another bank", set("bootAggregates", []any{attest.SHA1.Sum(nil).String()}),
		func(m *machine) { m.entries[0].digest = attest.SHA1.Sum([]byte("other")) }, attest.BootAggregateMismatch, "over a bank that is not quoted", "boot_aggregate"},
	{"a second boot_aggregate", func(m *machine) { m.entries = append(m.entries, m.entries[0]) }, measure(file("boot_aggregate", "x")), attest.BootAggregateMismatch, "", "boot_aggregate"},
	{"buffer that is not its digest", all(set("imaBuffers", map[string]any{"b": []any{content("b").String()}}), measure(buffer("b", []byte("b")))),
		measure(measurement{template: "ima-buf", digest: content("b"), name: "b", tail: []byte("c")}), attest.BufferDigestMismatch, "does not hash", "b"},
	{"unlisted buffer", all(set("excludes", []any{"kexec.*"}), measure(buffer("kexec-cmdline", []byte("x")))), measure(buffer("b", []byte("b"))), attest.FileNotInPolicy, "the buffer", "b"},
	{"changed buffer", set("imaBuffers", map[string]any{"b": []any{content("b").String()}}), measure(buffer("b", []byte("c"))), attest.FileDigestMismatch, "the buffer", "b"},
	{"key that is not approved", set("ignoredKeyrings", []any{".builtin"}), measure(buffer(".ima", []byte(testKey))), attest.FileNotInPolicy, "", ".ima"},
	{"another key", all(set("keyrings", map[string]any{".ima": []any{content(testKey).String()}}), measure(buffer(".ima", []byte(testKey)))),
		measure(buffer(".ima", []byte("no key"))), attest.FileDigestMismatch, "", ".ima"},
	{"no IMA policy", nothing, func(m *machine) { m.entries = m.entries[:2] }, attest.ImaPolicyNotApproved, "No approved IMA policy was loaded", ""},
	{"file before the IMA policy", list("/init", "init"), func(m *machine) { m.entries = slices.Insert(m.entries, 1, file("/init", "init")) },
		attest.ImaPolicyNotApproved, "1 entries were measured before", "/init"},
	{"IMA policy at the end", nothing, func(m *machine) {
		m.entries = append(slices.Delete(m.entries, 2, 3), file(policy.PolicyPath, rules))
	}, attest.ImaPolicyNotApproved, `2 entries were measured before an approved IMA policy was loaded; the first is entry 2, "/usr/bin/a"`, "/usr/bin/a"},
	{"another IMA policy later", measure(file(policy.PolicyPath, rules)), measure(file(policy.PolicyPath, "dont_measure\n")), attest.ImaPolicyNotApproved, "which no document approves", policy.PolicyPath},
	{"IMA policy from another path", nothing, measure(file("/etc/other-policy", "dont_measure\n")), attest.FileNotInPolicy, "", "/etc/other-policy"},
	{"other rules in the kernel", func(m *machine) {
		set("imaPolicies", []any{content(rules).String(), content("as the kernel writes them").String()})(m)
		measure(buffer("ima_policy_loaded", []byte("as the kernel writes them")))(m)
	}, measure(buffer("ima_policy_loaded", []byte("others"))), attest.ImaPolicyNotApproved, "", "ima_policy_loaded"},
	{"IMA policy that no word makes good", func(m *machine) {
		set("imaPolicies", []any{content(rules).String(), content("dont_measure\n").String()})(m)
		measure(file(policy.PolicyPath, "dont_measure\n"))(m)
	}, func(m *machine) { m.refused = []attest.Digest{content("dont_measure\n")} }, attest.ImaPolicyNotApproved, "which no document approves", policy.PolicyPath},
	{"IMA policy that no word makes good, listed as a file", func(m *machine) {
		delete(m.runtimes[0], "imaPolicies")
		list(policy.PolicyPath, rules)(m)
	}, func(m *machine) { m.refused = []attest.Digest{content(rules)} }, attest.ImaPolicyNotApproved, "which no document approves", policy.PolicyPath},
	{"padded bank", nothing, func(m *machine) { m.padded = true }, attest.WeakBank, "padded with zeros", ""},
	{"PCR value", func(m *machine) { m.pcrs = []map[string]any{pcrSpec(0, "\x00", "other")} }, func(m *machine) { m.pcrs = []map[string]any{pcrSpec(0, "other")} }, attest.PcrValueNotAllowed, "PCR 0 is", ""},
	{"PCR that is not quoted", nothing, func(m *machine) { m.pcrs = []map[string]any{pcrSpec(14, "x")} }, attest.EvidenceMissing, "PCR 14 is not in the quote", ""},
	{"Pcr document of another bank", func(m *machine) { m.pcrs = []map[string]any{pcrSpec(0, "\x00")} }, func(m *machine) {
		m.pcrs = []map[string]any{{"pcrs": map[string]any{"sha1": map[string]any{"0": []any{attest.SHA1.Sum(nil).String()}}}}}
	}, attest.EvidenceMissing, "no values for the quoted bank sha256", ""},
	{"boot PCR that is not quoted", set("bootAggregates", []any{content("x").String()}), func(m *machine) {
		m.omit = 9
		m.entries[0].digest = content("x")
	}, attest.EvidenceMissing, "PCR 9 is not in the quote", ""},
	{"empty list", nothing, func(m *machine) {
		m.entries = nil
		delete(m.runtimes[0], "imaPolicies")
	}, attest.EvidenceMissing, "list is empty", ""},
}

// TestFaults holds each fault against the same machine without it.
func TestFaults(t *testing.T) {
	for _, test := range faults {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine()
			test.healthy(m)
			if result := m.round(t); !result.Passed() {
				t.Fatalf("without the fault: %+v", result.Failures)
			}
			m = newMachine()
			test.healthy(m)
			test.fault(m)
			result := m.round(t)
			if diff := cmp.Diff([]attest.FailureID{test.want}, ids(result.Failures)); diff != "" || result.Passed() {
				t.Fatalf("%s%+v", diff, result.Failures)
			}
			f := result.Failures[0]
			if !strings.Contains(f.Detail, test.says) || f.Path != test.path {
				t.Errorf("failure %+v", f)
			}
			if f.Severity != test.want.Info().Severity || (f.Policy == "") != strings.HasPrefix(f.Detail, "PCR ") && f.ID == attest.EvidenceMissing {
				t.Errorf("severity or policy of %+v", f)
			}
		})
	}
}

// TestEveryFailureHasItsTest: the IDs that this package makes.
func TestEveryFailureHasItsTest(t *testing.T) {
	tested := map[attest.FailureID]bool{attest.EvidenceUnverified: true, attest.FileSignatureInvalid: true} // tests of their own, below
	for _, test := range faults {
		tested[test.want] = true
	}
	for _, id := range []attest.FailureID{attest.PcrValueNotAllowed, attest.BootAggregateMismatch, attest.FileNotInPolicy, attest.FileDigestMismatch,
		attest.FileSignatureInvalid, attest.BufferDigestMismatch, attest.Violation, attest.WeakBank, attest.ImaPolicyNotApproved, attest.EvidenceMissing, attest.EvidenceUnverified} {
		if !tested[id] {
			t.Errorf("%s has no test", id)
		}
	}
}

// TestFailureTellsAll: what a person needs to act.
func TestFailureTellsAll(t *testing.T) {
	m := newMachine()
	measure(file("/usr/bin/a", "changed"))(m)
	m.runtimes = append(m.runtimes, map[string]any{"digests": map[string]any{"/usr/bin/a": []any{content("delta").String()}}})
	position := uint64(5)
	want := []attest.Failure{{
		ID: attest.FileDigestMismatch, Severity: attest.Critical,
		Detail: fmt.Sprintf("Entry 5: %q has the digest %s, which is not one of those that are listed for it.", "/usr/bin/a", content("changed")),
		Path:   "/usr/bin/a", Seen: content("changed").String(), Policy: "runtime-0, runtime-1", Entry: &position,
		Allowed: []string{content("a").String(), content("old a").String(), content("delta").String()},
	}}
	if diff := cmp.Diff(want, m.round(t).Failures); diff != "" {
		t.Error(diff)
	}
}

func TestAllowedIsBounded(t *testing.T) {
	m := newMachine()
	var digests []any
	for i := range attest.MaxAllowed + 5 {
		digests = append(digests, content(fmt.Sprint(i)).String())
	}
	m.runtimes[0]["digests"].(map[string]any)["/usr/bin/a"] = digests
	if result := m.round(t); len(result.Failures) != 1 || len(result.Failures[0].Allowed) != attest.MaxAllowed {
		t.Errorf("%+v", result.Failures)
	}
}

// TestDocumentsAreUnited: an entry passes if any document approves it.
func TestDocumentsAreUnited(t *testing.T) {
	m := newMachine()
	measure(file("/usr/bin/new", "new"))(m)
	if result := m.round(t); result.Passed() {
		t.Fatal("the base alone approves it")
	}
	m = newMachine()
	measure(file("/usr/bin/new", "new"), file("/opt/x", "x"))(m)
	m.runtimes = append(m.runtimes, map[string]any{"digests": map[string]any{"/usr/bin/new": []any{content("new").String()}}}, map[string]any{"excludes": []any{"/opt/.*"}})
	m.pcrs = []map[string]any{pcrSpec(0, "other"), pcrSpec(0, "\x00"), pcrSpec(1, "\x01")}
	result := m.round(t)
	if !result.Passed() || len(result.Policies) != 6 {
		t.Errorf("%+v", result)
	}
}

// TestZeroValuesAreRefused: evidence that did not come out of Verify and Replay cannot be appraised.
func TestZeroValuesAreRefused(t *testing.T) {
	good := newMachine().input(t)
	if result, _ := Appraise(good); !result.Passed() {
		t.Fatalf("%+v", result.Failures)
	}
	other := newMachine()
	measure(file("/tmp/x", "x"))(other)
	evidence, _ := captured(t, captureTCB, attest.SHA256)
	pcr11, failures := newMachine().list(t).Replay(quotetest.Verified(t, pcr.Values{Bank: attest.SHA256,
		Digests: map[int]attest.Digest{11: pcr.Initial(attest.SHA256, 11)}}, quote.Clock{}), ima.Request{PCR: 11})
	if failures != nil {
		t.Fatal(failures)
	}
	for name, test := range map[string]struct {
		fault func(*Input)
		want  []attest.FailureID
	}{
		"quote":                    {func(in *Input) { in.Evidence.Quote = quote.Verified{} }, []attest.FailureID{attest.EvidenceUnverified}},
		"everything":               {func(in *Input) { in.Evidence = Evidence{} }, []attest.FailureID{attest.EvidenceUnverified, attest.EvidenceMissing}},
		"list":                     {func(in *Input) { in.Evidence.IMA = &ima.Replayed{} }, []attest.FailureID{attest.EvidenceUnverified}},
		"event log":                {func(in *Input) { in.Evidence.EventLog = &eventlog.Replayed{} }, []attest.FailureID{attest.EvidenceUnverified}},
		"list of another quote":    {func(in *Input) { in.Evidence.Quote = quotetest.Verified(t, other.values(), quote.Clock{}) }, []attest.FailureID{attest.EvidenceUnverified}},
		"log of another quote":     {func(in *Input) { in.Evidence.EventLog = evidence.EventLog }, []attest.FailureID{attest.EvidenceUnverified}},
		"list of another PCR":      {func(in *Input) { in.Evidence.IMA = &pcr11 }, []attest.FailureID{attest.EvidenceUnverified}},
		"document":                 {func(in *Input) { in.Policies = append(in.Policies, &policy.Document{}) }, []attest.FailureID{attest.EvidenceUnverified}},
		"no document":              {func(in *Input) { in.Policies = append(in.Policies, nil) }, []attest.FailureID{attest.EvidenceUnverified}},
		"no list":                  {func(in *Input) { in.Evidence.IMA = nil }, []attest.FailureID{attest.EvidenceMissing}},
		"entries between are lost": {func(in *Input) { in.Progress.Position = 3 }, []attest.FailureID{attest.EvidenceMissing}},
		"list of a boot before":    {func(in *Input) { in.Progress.Position = 99 }, []attest.FailureID{attest.EvidenceMissing}},
	} {
		t.Run(name, func(t *testing.T) {
			in := good
			in.Policies = slices.Clone(good.Policies)
			test.fault(&in)
			result, _ := Appraise(in)
			got := slices.Compact(ids(result.Failures))
			if diff := cmp.Diff(test.want, got); diff != "" || result.Passed() {
				t.Errorf("%s%+v", diff, result.Failures)
			}
		})
	}
	if (attest.Result{}).Passed() {
		t.Error("the zero Result passes")
	}
}

// TestWithoutDocuments: evidence is collected, nothing fails, and nothing passes.
func TestWithoutDocuments(t *testing.T) {
	m := newMachine()
	m.runtimes = nil
	result := m.round(t)
	if result.Passed() || !result.Appraised || len(result.Failures) != 0 || result.Policies == nil {
		t.Errorf("%+v", result)
	}
	if m.progress.Position != 5 || m.progress.BootAggregate || m.progress.IMAPolicy {
		t.Errorf("progress %+v: what was not judged is taken for good", m.progress)
	}
	// A document that comes later without the list's start being judged again finds no boot_aggregate.
	m.runtimes = newMachine().runtimes
	if got := ids(m.round(t).Failures); !slices.Contains(got, attest.BootAggregateMismatch) || !slices.Contains(got, attest.ImaPolicyNotApproved) {
		t.Errorf("failures %v", got)
	}
}

// TestRounds: what the first round told holds in later ones, also after being stored.
func TestRounds(t *testing.T) {
	m := newMachine()
	m.entries = m.entries[:3]
	if result := m.round(t); !result.Passed() {
		t.Fatalf("first round: %+v", result.Failures)
	}
	text, err := json.Marshal(m.progress)
	if err != nil {
		t.Fatal(err)
	}
	m.progress = Progress{}
	if err := json.Unmarshal(text, &m.progress); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Progress{Position: 3, BootAggregate: true, IMAPolicy: true}, m.progress); diff != "" {
		t.Error(diff)
	}
	measure(file("/usr/bin/a", "a"))(m)
	if result := m.round(t); !result.Passed() {
		t.Fatalf("second round: %+v", result.Failures)
	}
	if result := m.round(t); !result.Passed() {
		t.Fatalf("a round without entries: %+v", result.Failures)
	}
	measure(file("/usr/bin/evil", "x"))(m)
	result := m.round(t)
	if diff := cmp.Diff([]attest.FailureID{attest.FileNotInPolicy}, ids(result.Failures)); diff != "" || *result.Failures[0].Entry != 4 {
		t.Errorf("%s%+v", diff, result.Failures)
	}
}

// TestPolicyMayComeInALaterRound only when all that came before is of the early boot.
func TestPolicyMayComeInALaterRound(t *testing.T) {
	m := newMachine()
	m.entries = m.entries[:2]
	if got := ids(m.round(t).Failures); len(got) != 1 || got[0] != attest.ImaPolicyNotApproved {
		t.Errorf("without a policy so far: %v", got)
	}
	measure(file(policy.PolicyPath, rules), file("/usr/bin/a", "a"))(m)
	if result := m.round(t); !result.Passed() {
		t.Errorf("with it: %+v", result.Failures)
	}
}

// TestListWithoutBootAggregate begins with an ordinary entry.
func TestListWithoutBootAggregate(t *testing.T) {
	m := newMachine()
	if result := m.round(t); !result.Passed() {
		t.Fatalf("%+v", result.Failures)
	}
	m = newMachine()
	m.entries = m.entries[1:]
	if diff := cmp.Diff([]attest.FailureID{attest.BootAggregateMismatch}, ids(m.round(t).Failures)); diff != "" {
		t.Error(diff)
	}
	// A violation has no name that a PCR covers: it stands for no boot_aggregate. Nor does a buffer of that name.
	m = newMachine()
	set("imaBuffers", map[string]any{"boot_aggregate": []any{content("b").String()}})(m)
	m.entries[0] = buffer("boot_aggregate", []byte("b"))
	if got := ids(m.round(t).Failures); !slices.Contains(got, attest.BootAggregateMismatch) {
		t.Errorf("a buffer: failures %v", got)
	}
	m = newMachine()
	m.entries[0].violation = true
	if got := ids(m.round(t).Failures); !slices.Contains(got, attest.Violation) || !slices.Contains(got, attest.BootAggregateMismatch) {
		t.Errorf("failures %v", got)
	}
}

func TestWeakBankMayBeAllowed(t *testing.T) {
	m := newMachine()
	m.padded = true
	set("allowWeakBank", true)(m)
	if result := m.round(t); !result.Passed() {
		t.Errorf("%+v", result.Failures)
	}
}

func TestSHA1Bank(t *testing.T) {
	evidence, list := captured(t, captureTCB, attest.SHA1)
	in := Input{Evidence: evidence, Policies: []*policy.Document{fromList(t, list)}}
	result, _ := Appraise(in)
	// boot_aggregate is of the SHA-256 bank, which this quote does not hold.
	if diff := cmp.Diff([]attest.FailureID{attest.WeakBank, attest.BootAggregateMismatch}, ids(result.Failures)); diff != "" {
		t.Error(diff)
	}
}

// fromList approves a captured list and its violations.
func fromList(t testing.TB, list ima.List) *policy.Document {
	t.Helper()
	digests := map[string]any{}
	for _, e := range list.All() {
		if !e.Violation && e.Path != bootAggregate {
			listed, _ := digests[e.Path].([]any)
			digests[e.Path] = append(listed, e.Digest.String())
		}
	}
	return document(t, policy.KindRuntime, "captured", map[string]any{"digests": digests, "violations": []any{"/mnt/r/etc/.*"}})
}

// TestCapture appraises a real boot of a real kernel: with its own document it passes, and without one of its files it fails by name.
func TestCapture(t *testing.T) {
	evidence, list := captured(t, captureTCB, attest.SHA256)
	result, progress := Appraise(Input{Evidence: evidence, Policies: []*policy.Document{fromList(t, list)}})
	if !result.Passed() {
		t.Fatalf("%+v", result.Failures)
	}
	if want := uint64(list.Len()); progress.Position != want || !progress.BootAggregate {
		t.Errorf("progress %+v, want position %d", progress, want)
	}
	built, err := policy.BuildRuntime(t.Context(), policy.BuildOptions{Name: "built", List: &list})
	if err != nil {
		t.Fatal(err)
	}
	result, _ = Appraise(Input{Evidence: evidence, Policies: []*policy.Document{built}})
	if got := slices.Compact(ids(result.Failures)); len(got) != 1 || got[0] != attest.Violation {
		t.Errorf("with the document that is made from the list: %+v", result.Failures)
	}
}

// TestLabCapture appraises a boot in which init loaded the host policy first, by the document that is made from its own list.
func TestLabCapture(t *testing.T) {
	evidence, list := captured(t, captureLab, attest.SHA256)
	rules, err := os.ReadFile("testdata/" + captureLab + "/policy")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		approved []byte
		bank     attest.Hash
		want     []attest.FailureID
	}{
		{"its policy", rules, attest.SHA256, []attest.FailureID{attest.Violation}},
		{"another policy", []byte("measure func=BPRM_CHECK\n"), attest.SHA256, []attest.FailureID{attest.ImaPolicyNotApproved, attest.Violation, attest.ImaPolicyNotApproved}},
		// The kernel has no SHA-512, and extends that bank with padded SHA-1; boot_aggregate is of the bank SHA-256.
		{"padded bank", rules, attest.SHA512, []attest.FailureID{attest.WeakBank, attest.BootAggregateMismatch, attest.Violation}},
	} {
		document, err := policy.BuildRuntime(t.Context(), policy.BuildOptions{Name: "lab", List: &list, IMAPolicies: [][]byte{test.approved}})
		if err != nil {
			t.Fatal(err)
		}
		evidence := evidence
		if test.bank != attest.SHA256 {
			evidence, _ = captured(t, captureLab, test.bank)
		}
		result, _ := Appraise(Input{Evidence: evidence, Policies: []*policy.Document{document}})
		if diff := cmp.Diff(test.want, slices.Compact(ids(result.Failures))); diff != "" {
			t.Errorf("%s: %s%+v", test.name, diff, result.Failures)
		}
	}
}

func TestNeeds(t *testing.T) {
	always := "sha256:0,1,2,3,4,5,6,7,8,9,10"
	for _, test := range []struct {
		documents []*policy.Document
		want      string
	}{
		{nil, always},
		{[]*policy.Document{nil, {}}, always},
		{[]*policy.Document{document(t, policy.KindRuntime, "r", map[string]any{})}, always},
		{[]*policy.Document{document(t, policy.KindPcr, "a", pcrSpec(14, "x")), document(t, policy.KindPcr, "b", pcrSpec(7, "x"))}, always + ",14"},
	} {
		if got := Needs(test.documents).String(); got != test.want {
			t.Errorf("needs %s, want %s", got, test.want)
		}
	}
}

// TestManyFailuresAreBounded: a hostile list costs no more than its replay.
func TestManyFailuresAreBounded(t *testing.T) {
	m := newMachine()
	for i := range 1000 {
		m.entries = append(m.entries, file(fmt.Sprintf("/usr/bin/evil%d", i), "x"))
	}
	result := m.round(t)
	if len(result.Failures) != attest.MaxFailures || result.Suppressed != 1000-attest.MaxFailures {
		t.Errorf("%d failures and %d more", len(result.Failures), result.Suppressed)
	}
}

// TestManyFailuresHideNoOther: what is found at the end of a list, or in it after many others, is told.
func TestManyFailuresHideNoOther(t *testing.T) {
	m := newMachine()
	m.entries = m.entries[:2] // no IMA policy is loaded
	for i := range 2 * attest.MaxFailures {
		m.entries = append(m.entries, file(fmt.Sprintf("/usr/bin/evil%d", i), "x"))
	}
	m.entries = append(m.entries, file("/usr/bin/a", "changed"))
	m.runtimes[0]["imaPolicies"] = []any{content(rules).String()}
	got := ids(m.round(t).Failures)
	for _, id := range []attest.FailureID{attest.FileNotInPolicy, attest.FileDigestMismatch, attest.ImaPolicyNotApproved} {
		if !slices.Contains(got, id) {
			t.Errorf("%s is not among %v", id, got)
		}
	}
}
