package verifier

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/machine"
)

// failedAndRebooted is a fleet whose node-1 failed and then booted anew, and passes but for what still holds it.
func failedAndRebooted(t *testing.T, a api.Assignment) (*fleet, *boxtest.Box) {
	f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"), boxtest.Document(t, "wide", "/usr/bin/a", "/usr/bin/b"))
	f.start()
	b := f.enrol(node1, "base")
	f.assign(node1, a)
	f.on(func() { b.Run("/usr/bin/evil", "") })
	sleep(round)
	f.want(node1, attest.Failed)
	f.on(b.Reset)
	sleep(2 * round)
	return f, b
}

var approval = api.Assignment{Owner: "NodePolicy/workers", Readmit: api.ReadmitApproval}

func TestReadmissionWaitsForApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := failedAndRebooted(t, approval)
		n := f.want(node1, attest.Failed)
		if !n.State.QuoteBacked || n.State.Failures[0].ID != attest.FileNotInPolicy || n.State.Readmission == nil || n.State.Readmission.Boot != n.State.Boot {
			t.Errorf("state %+v", n.State)
		}
		at := n.State.Readmission.At
		sleep(10 * round)
		if n = f.want(node1, attest.Failed); n.State.Readmission == nil || !n.State.Readmission.At.Equal(at) {
			t.Errorf("after more rounds: %+v", n.State.Readmission)
		}
		if err := f.v.Do(t.Context(), node1, machine.Approve); err != nil {
			t.Fatal(err)
		}
		sleep(round)
		if n = f.want(node1, attest.Trusted); n.State.Readmission != nil || n.State.Approved != "" {
			t.Errorf("after the approval: %+v", n.State)
		}
		rows, err := f.store.Transitions(t.Context(), node1, 0, 100)
		if err != nil || rows[len(rows)-1].Cause != string(machine.Approve) {
			t.Errorf("transitions %+v, %v", rows, err)
		}
		f.end()
	})
}

func TestReadmissionIsAutomaticByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := failedAndRebooted(t, api.Assignment{Owner: "NodePolicy/workers"})
		f.want(node1, attest.Trusted)
		f.end()
	})
}

// None of these is a way around the person.
func TestNothingElseReadmits(t *testing.T) {
	for name, try := range map[string]func(f *fleet, b *boxtest.Box){
		"another reboot": func(f *fleet, b *boxtest.Box) { f.on(b.Reset) },
		"other policies": func(f *fleet, _ *boxtest.Box) {
			wide := []string{"wide"}
			if err := f.v.Update(f.t.Context(), node1, Update{Policies: &wide, ByOwner: true}); err != nil {
				f.t.Fatal(err)
			}
		},
		"silence": func(f *fleet, _ *boxtest.Box) {
			f.on(func() { f.silent[string(node1)] = errors.New("no route") })
			sleep(10 * time.Minute)
			f.on(func() { delete(f.silent, string(node1)) })
		},
		"a restart of the server": func(f *fleet, _ *boxtest.Box) { f.end(); f.start() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, b := failedAndRebooted(t, approval)
				try(f, b)
				sleep(3 * round)
				if n := f.want(node1, attest.Failed); n.State.Readmission == nil {
					t.Error("no readmission waits any longer")
				}
				if err := f.v.Do(t.Context(), node1, machine.Approve); err != nil {
					t.Fatal(err)
				}
				sleep(2 * round)
				f.want(node1, attest.Trusted)
				f.end()
			})
		})
	}
}

// An approval is for what was seen: a machine that fails meanwhile is not let in, and a further boot needs its own.
func TestApprovalIsForOneBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := failedAndRebooted(t, approval)
		f.on(func() { f.silent[string(node1)] = errors.New("no route") })
		if err := f.v.Do(t.Context(), node1, machine.Approve); err != nil {
			t.Fatal(err)
		}
		f.on(func() {
			b.Run("/usr/bin/worse", "")
			delete(f.silent, string(node1))
		})
		sleep(2 * round)
		if n := f.want(node1, attest.Failed); n.State.Failures[0].Path != "/usr/bin/worse" || n.State.Readmission != nil {
			t.Errorf("state %+v", n.State)
		}
		if err := f.v.Do(t.Context(), node1, machine.Approve); !errors.Is(err, machine.ErrNothingToApprove) {
			t.Errorf("approval of a failing boot: %v", err)
		}
		f.on(b.Reset)
		sleep(2 * round)
		f.on(func() { f.silent[string(node1)] = errors.New("no route") })
		if err := f.v.Do(t.Context(), node1, machine.Approve); err != nil {
			t.Fatal(err)
		}
		f.on(func() {
			b.Reset()
			delete(f.silent, string(node1))
		})
		sleep(2 * round)
		if n := f.want(node1, attest.Failed); n.State.Readmission == nil {
			t.Errorf("another boot than the approved one: %+v", n.State)
		}
		f.end()
	})
}

func TestReattestReadmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := failedAndRebooted(t, approval)
		if err := f.v.Do(t.Context(), node1, machine.Reattest); err != nil {
			t.Fatal(err)
		}
		sleep(round)
		if n := f.want(node1, attest.Trusted); n.State.Readmission != nil {
			t.Errorf("state %+v", n.State)
		}
		f.end()
	})
}

func TestAnAssignmentThatNoLongerAsksReadmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := failedAndRebooted(t, approval)
		f.assign(node1, api.Assignment{Owner: "NodePolicy/workers", Readmit: api.ReadmitAutomatic})
		sleep(round)
		f.want(node1, attest.Trusted)
		f.end()
	})
}

func (f *fleet) assignPolicies(names ...string) {
	f.t.Helper()
	if err := f.v.Update(f.t.Context(), node1, Update{Policies: &names, ByOwner: true}); err != nil {
		f.t.Fatal(err)
	}
}

// A failure of the new boot that a change of policies explains leaves the person's question as it was.
func TestPoliciesThatExplainTheNewBootDoNotReadmit(t *testing.T) {
	for name, when := range map[string]func(f *fleet, b *boxtest.Box){
		"it failed while it waited": func(f *fleet, b *boxtest.Box) { f.on(func() { b.Run("/usr/bin/b", "") }); sleep(2 * round) },
		"it failed at once": func(f *fleet, b *boxtest.Box) {
			f.on(func() { b.Reset(); b.Run("/usr/bin/b", "") })
			sleep(2 * round)
		},
		"it failed at once, twice": func(f *fleet, b *boxtest.Box) {
			f.on(func() { b.Reset(); b.Run("/usr/bin/b", "") })
			sleep(2 * round)
			f.on(func() { b.Reset(); b.Run("/usr/bin/b", "") })
			sleep(2 * round)
		},
		"it failed after the approval": func(f *fleet, b *boxtest.Box) {
			f.on(func() { f.silent[string(node1)] = errors.New("no route") })
			if err := f.v.Do(f.t.Context(), node1, machine.Approve); err != nil {
				f.t.Fatal(err)
			}
			f.on(func() { b.Run("/usr/bin/b", ""); delete(f.silent, string(node1)) })
			sleep(2 * round)
		},
		"and the server restarted": func(f *fleet, b *boxtest.Box) {
			f.on(func() { b.Run("/usr/bin/b", "") })
			sleep(2 * round)
			f.end()
			f.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, b := failedAndRebooted(t, approval)
				when(f, b)
				if n := f.want(node1, attest.Failed); n.State.Readmission != nil {
					t.Fatalf("before: %+v", n.State)
				}
				f.assignPolicies("wide")
				sleep(3 * round)
				n := f.want(node1, attest.Failed)
				if n.State.Readmission == nil || n.State.Readmission.Boot != n.State.Boot {
					t.Errorf("nothing waits for a person: %+v", n.State)
				}
				if err := f.v.Do(t.Context(), node1, machine.Approve); err != nil {
					t.Fatal(err)
				}
				sleep(2 * round)
				f.want(node1, attest.Trusted)
				f.end()
			})
		})
	}
}
