package verifier

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifier/boxtest"
)

// enrolEndorsed enrols a box whose EK the maker endorses.
func (f *fleet) enrolEndorsed(m boxtest.Maker, emulated bool, policies ...string) *boxtest.Box {
	f.t.Helper()
	b := boxtest.New(f.t)
	f.on(func() { f.boxes[string(node1)] = b })
	e := enrolment(b, node1, policies...)
	e.FirstUse, e.Chain = false, [][]byte{m.Leaf}
	if _, err := e.Roots.AddPEM(m.PEM()); err != nil {
		f.t.Fatal(err)
	}
	if emulated {
		e.EmulatedRoots = []attest.Digest{m.Fingerprint}
	}
	if _, err := f.v.Enrol(f.t.Context(), e); err != nil {
		f.t.Fatal(err)
	}
	return b
}

// Whom an assignment accepts as endorser is judged with the evidence: the same evidence passes under another assignment.
func TestEndorsersThatAnAssignmentDoesNotName(t *testing.T) {
	for name, tt := range map[string]struct {
		emulated bool
		refuses  func(own attest.Digest) []attest.Digest
		accepts  func(own attest.Digest) []attest.Digest
	}{
		"an emulator that nobody names":        {true, func(attest.Digest) []attest.Digest { return nil }, func(own attest.Digest) []attest.Digest { return []attest.Digest{own} }},
		"an emulator beside a named maker":     {true, named("other"), func(own attest.Digest) []attest.Digest { return append(named("other")(own), own) }},
		"a maker where another one is named":   {false, named("other"), func(attest.Digest) []attest.Digest { return nil }},
		"a maker where others are named first": {false, named("a", "b"), func(own attest.Digest) []attest.Digest { return append(named("a")(own), own) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
				f.start()
				m := boxtest.NewMaker(t, time.Now())
				f.enrolEndorsed(m, tt.emulated, "base")
				f.assign(node1, api.Assignment{EndorsedBy: tt.refuses(m.Fingerprint)})
				sleep(round)
				n := f.want(node1, attest.Failed)
				if len(n.State.Failures) != 1 || n.State.Failures[0].ID != attest.EkNotEndorsed || n.Enrolment.Emulated != tt.emulated {
					t.Errorf("failures %v, enrolment %+v", n.State.Failures, n.Enrolment)
				}
				f.assign(node1, api.Assignment{EndorsedBy: tt.accepts(m.Fingerprint)})
				sleep(round)
				f.want(node1, attest.Trusted)
				f.assign(node1, api.Assignment{EndorsedBy: tt.refuses(m.Fingerprint)})
				sleep(round)
				f.want(node1, attest.Failed)
				f.end()
			})
		})
	}
}

func named(roots ...string) func(attest.Digest) []attest.Digest {
	var all []attest.Digest
	for _, r := range roots {
		all = append(all, attest.SHA256.Sum([]byte(r)))
	}
	return func(attest.Digest) []attest.Digest { return slices.Clone(all) }
}

// A root that is named does not let a TPM in that nobody endorsed; and without a policy an emulator is Unappraised as everything else.
func TestEndorsersOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		f.enrol("node-2", "base")
		f.assign("node-2", api.Assignment{EndorsedBy: named("a")(attest.Digest{})})
		f.enrolEndorsed(boxtest.NewMaker(t, time.Now()), true)
		sleep(round)
		if n := f.want("node-2", attest.Failed); n.State.Failures[0].ID != attest.EkNotEndorsed {
			t.Errorf("failures %v", n.State.Failures)
		}
		f.want(node1, attest.Unappraised)
		f.end()
	})
}

const containersPolicy = "dont_measure fsmagic=0x794c7630\n"

// containersDocument approves the IMA policy for hosts with containers.
func containersDocument(t *testing.T) *policy.Document {
	t.Helper()
	text := strings.TrimSuffix(string(boxtest.Document(t, "base", "/usr/bin/a").Bytes()), "\n") +
		fmt.Sprintf("\n  imaPolicies: [%q]\n  earlyBoot: [/usr/lib/systemd/systemd, /usr/bin/assay-agent]\n", attest.SHA256.Sum([]byte(containersPolicy)))
	d, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestContainerFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, containersDocument(t))
		f.cfg.ContainerIMAPolicies = []attest.Digest{attest.SHA256.Sum([]byte(containersPolicy))}
		f.start()
		b := f.enrol(node1, "base")
		f.on(func() { b.Measure(policy.PolicyPath, attest.SHA256.Sum([]byte(containersPolicy))) })
		sleep(round)
		for _, a := range []api.Assignment{{}, {ContainerFiles: api.ContainerFilesFail}} {
			f.assign(node1, a)
			sleep(round)
			n := f.want(node1, attest.Failed)
			if n.State.Failures[0].ID != attest.ImaPolicyNotApproved || len(n.Coverage()) != 0 {
				t.Errorf("%q: failures %v, coverage %v", a.ContainerFiles, n.State.Failures, n.Coverage())
			}
			if n.State.Progress.IMAPolicy {
				t.Errorf("%q: the policy is shown as approved", a.ContainerFiles)
			}
		}
		f.assign(node1, api.Assignment{ContainerFiles: api.ContainerFilesIgnore})
		sleep(round)
		if n := f.want(node1, attest.Trusted); !slices.Equal(n.Coverage(), []string{api.CoverageContainerFilesIgnored}) {
			t.Errorf("coverage %v", n.Coverage())
		}
		if !f.node(node1).State.Progress.IMAPolicy {
			t.Error("the policy is not shown as approved")
		}
		f.on(func() { b.Run("/usr/bin/evil", "") }) // what the host runs is judged all the same
		sleep(round)
		if n := f.want(node1, attest.Failed); n.State.Failures[0].ID != attest.FileNotInPolicy {
			t.Errorf("failures %v", n.State.Failures)
		}
		f.end()
	})
}
