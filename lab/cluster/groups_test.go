package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/need"
)

// leftBehind makes the groups of a node of a cluster that is gone, each with one below it.
func leftBehind(t *testing.T, number string) []hierarchy {
	t.Helper()
	all, err := hostHierarchies(groupName(number, "gone"))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range all {
		if err := h.create(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := h.remove(time.Now().Add(20 * time.Second)); err != nil {
				t.Error(err)
			}
		})
		if err := os.Mkdir(filepath.Join(h.folder(), "pod"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestGroupsLeftBehind: a cluster whose supervisor was killed leaves its groups. They are found, and removed when nothing runs in them. The number is
// one that no cluster gets.
func TestGroupsLeftBehind(t *testing.T) {
	need.Root(t)
	const number = "9001"
	find := func(want []hierarchy) {
		t.Helper()
		found, err := groupsOf(number)
		if err != nil {
			t.Fatal(err)
		}
		var folders []string
		for _, h := range want {
			folders = append(folders, h.folder())
		}
		if diff := cmp.Diff(folders, found); diff != "" {
			t.Errorf("groups found (-want +got):\n%s", diff)
		}
	}
	find(nil)
	left := leftBehind(t, number)
	find(left)
	sleeper := exec.Command("sleep", "600")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() { sleeper.Process.Kill(); sleeper.Wait() })
	t.Cleanup(end)
	if err := left[0].enter(sleeper.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if pids := processesIn(left[0].folder()); !slices.Equal(pids, []int{sleeper.Process.Pid}) {
		t.Errorf("processes %v in the group, want %d", pids, sleeper.Process.Pid)
	}
	if err := left[0].remove(time.Now()); err == nil || !strings.Contains(err.Error(), "(sleep) in /") {
		t.Errorf("removing a group with a process: %v; want what the process is", err)
	}
	for _, h := range left[1:] {
		if err := h.remove(time.Now()); err != nil {
			t.Error(err)
		}
	}
	find(left[:1])
	time.AfterFunc(300*time.Millisecond, end)
	if err := left[0].remove(time.Now().Add(20 * time.Second)); err != nil {
		t.Error(err)
	}
	find(nil)
}
