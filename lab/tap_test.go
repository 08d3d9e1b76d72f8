package lab

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/lab/host"
)

// namespace makes a network namespace that ends with the test, and returns its path and a way to run busybox's programs in it.
func namespace(t *testing.T) (path string, run func(args ...string) (string, error)) {
	t.Helper()
	need.Root(t)
	busybox, err := staticBusybox()
	if err != nil {
		t.Fatal(err)
	}
	keeper := exec.Command("unshare", "--net", busybox, "sleep", "100000")
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		keeper.Process.Kill()
		keeper.Wait()
	})
	pid := fmt.Sprint(keeper.Process.Pid)
	run = func(args ...string) (string, error) {
		return host.RunTool(exec.Command("nsenter", append([]string{"--net=/proc/" + pid + "/ns/net", busybox}, args...)...))
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		// Until unshare has done its work the namespace is this one, with more than a loopback.
		if links, err := run("ip", "link"); err == nil && strings.Count(links, "link/") == 1 {
			return "/proc/" + pid + "/ns/net", run
		}
		if time.Now().After(end) {
			t.Fatal("no network namespace")
		}
	}
}

// A machine with a card in a namespace of the host and further modules, as a member of a cluster has.
func TestMachineWithTap(t *testing.T) {
	place(t)
	path, run := namespace(t)
	vendor := filepath.Join(t.TempDir(), "vendor")
	m := boot(t, Config{
		Vendor:  vendor,
		Taps:    []Tap{{Name: "tap0", Namespace: path, Address: "10.98.0.2/28", Gateway: "10.98.0.1"}, {Name: "spare", Namespace: path}},
		Modules: []string{"br_netfilter", "nf_conntrack"},
	})
	for _, args := range [][]string{{"ip", "addr", "add", "10.98.0.1/28", "dev", "tap0"}, {"ip", "link", "set", "tap0", "up"}} {
		if _, err := run(args...); err != nil {
			t.Fatal(err)
		}
	}
	meet := func() {
		t.Helper()
		if got := output(t, m, "ping -c 1 -W 20 10.98.0.1 >/dev/null && ip route | grep default; test -d /proc/sys/net/bridge && grep -c '^nf_conntrack ' /proc/modules"); got !=
			"default via 10.98.0.1 dev eth2 \n1" {
			t.Errorf("in the machine: %q", got)
		}
		if out, err := run("ping", "-c", "1", "-W", "20", "10.98.0.2"); err != nil {
			t.Errorf("from the host: %v: %s", err, out)
		}
	}
	meet()
	if err := m.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	meet()
	ofMachine, err := m.EKRoot()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if root, err := swtpm.Authorities(vendor); err != nil || string(root) != string(ofMachine) {
		t.Errorf("the shared vendor is %q, the machine's was %q, %v", root, ofMachine, err)
	}
	if links, err := run("ip", "link"); err != nil || strings.Contains(links, "tap0") {
		t.Errorf("left on the host: %s, %v", links, err)
	}
}

func TestUpNamesTheTapAndModuleThatFail(t *testing.T) {
	place(t)
	need.Root(t)
	for want, cfg := range map[string]Config{
		`tap lost of namespace "/no/such": no such file`: {Taps: []Tap{{Name: "lost", Namespace: "/no/such"}}},
		`tap lost of namespace "/proc/self/ns/uts"`:      {Taps: []Tap{{Name: "lost", Namespace: "/proc/self/ns/uts"}}},
		"kernel module no_such_module":                   {Modules: []string{"no_such_module"}},
	} {
		cfg.Dir, cfg.Init = t.TempDir(), buildInit(t)
		if _, err := Up(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, expected %q", err, want)
		}
	}
}

func TestPlugs(t *testing.T) {
	plugs := plugTaps([]Tap{{Name: "a", Address: "10.1.0.2/16", Gateway: "10.1.0.1"}, {Name: "b"}})
	if len(plugs) != 2 || plugs[0].MAC == plugs[1].MAC || !strings.HasPrefix(plugs[0].MAC, "52:54:00:") {
		t.Errorf("got %+v", plugs)
	}
	if got := cards(plugs); got[0].MAC != plugs[0].MAC || got[0].Address != "10.1.0.2/16" || got[0].Gateway != "10.1.0.1" || got[1].Address != "" {
		t.Errorf("got %+v", got)
	}
}
