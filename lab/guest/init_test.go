package guest

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadServices(t *testing.T) {
	good := `[{"name":"agent","args":["/bin/agent","-v"],"env":["A=b"],"user":"assay","afterNetwork":true},{"name":"b","args":["/b"],"log":"/l"}]`
	want := []Service{
		{Name: "agent", Args: []string{"/bin/agent", "-v"}, Env: []string{"A=b"}, User: "assay", AfterNetwork: true},
		{Name: "b", Args: []string{"/b"}, Log: "/l"},
	}
	got, err := ReadServices(write(t, filepath.Join(t.TempDir(), "s"), good))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if none, err := ReadServices(filepath.Join(t.TempDir(), "none")); err != nil || none != nil {
		t.Errorf("no file: %v, %v", none, err)
	}
	for name, text := range map[string]string{
		"no JSON": "{", "unknown key": `[{"name":"a","args":["/a"],"colour":1}]`, "no name": `[{"args":["/a"]}]`, "no command": `[{"name":"a"}]`,
	} {
		if _, err := ReadServices(write(t, filepath.Join(t.TempDir(), "s"), text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReadCards(t *testing.T) {
	got, err := readCards(write(t, filepath.Join(t.TempDir(), "c"), `[{"mac":"52:54:00:80:00:01","address":"10.1.0.2/16"},{"mac":"m","gateway":"10.1.0.1"}]`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Card{{MAC: "52:54:00:80:00:01", Address: "10.1.0.2/16"}, {MAC: "m", Gateway: "10.1.0.1"}}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if none, err := readCards(filepath.Join(t.TempDir(), "none")); err != nil || none != nil {
		t.Errorf("no file: %v, %v", none, err)
	}
	if _, err := readCards(write(t, filepath.Join(t.TempDir(), "c"), "[")); err == nil {
		t.Error("no JSON: accepted")
	}
}

func TestKeepStartsServiceAgainUntilToldToStop(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Keep(ctx, Service{Name: "short", Args: []string{"sh", "-c", "echo run $WHO; exit 1"}, Env: []string{"WHO=me"}, Log: log}, slog.New(slog.DiscardHandler))
	}()
	runs := func() int { data, _ := os.ReadFile(log); return strings.Count(string(data), "run me\n") }
	began := time.Now()
	for runs() < 3 && time.Since(began) < 20*time.Second {
		time.Sleep(20 * time.Millisecond)
	}
	if runs() < 3 {
		t.Fatalf("%d runs", runs())
	}
	if spent := time.Since(began); spent < minBackOff+2*minBackOff {
		t.Errorf("three runs within %v: no back-off", spent)
	}
	cancel()
	<-done
}

func TestKeepEndsTheRunningServiceWithItsContext(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	Keep(ctx, Service{Name: "long", Args: []string{"sleep", "60"}, Log: log}, slog.New(slog.DiscardHandler))
	if spent := time.Since(began); spent > 10*time.Second {
		t.Errorf("took %v to stop", spent)
	}
}

func TestKeepSurvivesServicesThatCannotStart(t *testing.T) {
	for name, s := range map[string]Service{
		"no program": {Name: "a", Args: []string{"/no/such"}, Log: filepath.Join(t.TempDir(), "log")},
		"no log":     {Name: "b", Args: []string{"true"}, Log: "/no/such/folder/log"},
		"no user":    {Name: "c", Args: []string{"true"}, User: "nobody-of-that-name", Log: filepath.Join(t.TempDir(), "log")},
	} {
		if err := runService(t.Context(), s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLoadPolicyWritesThePath(t *testing.T) {
	dir := t.TempDir()
	policy, securityfs := write(t, filepath.Join(dir, "ima-policy"), "measure func=BPRM_CHECK\n"), write(t, filepath.Join(dir, "policy"), "")
	if err := LoadPolicy(securityfs, policy); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(securityfs); err != nil || string(got) != policy {
		t.Errorf("wrote %q, %v", got, err)
	}
	if err := LoadPolicy(filepath.Join(dir, "none"), policy); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kernel without IMA: %v", err)
	}
	if err := LoadPolicy(securityfs, filepath.Join(dir, "none")); err != nil {
		t.Errorf("machine without a policy: %v", err)
	}
}

func TestLoadModulesNamesTheModule(t *testing.T) {
	dir := t.TempDir()
	if err := LoadModules(filepath.Join(dir, "none")); err != nil {
		t.Errorf("no list: %v", err)
	}
	bad := write(t, filepath.Join(dir, "bad.ko"), "no module")
	for _, path := range []string{bad, filepath.Join(dir, "none.ko")} {
		if err := LoadModules(write(t, filepath.Join(dir, "order"), "\n"+path+"\n")); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestWaitForGivesUp(t *testing.T) {
	if err := waitFor(filepath.Join(t.TempDir(), "disk"), 30*time.Millisecond); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := waitFor("/dev/null", 0); err != nil {
		t.Error(err)
	}
}

func TestReadKey(t *testing.T) {
	dir := t.TempDir()
	if key, err := readKey(write(t, filepath.Join(dir, "key"), strings.Repeat("ab", 32)+"\n")); err != nil || len(key) != 32 {
		t.Errorf("%x, %v", key, err)
	}
	for name, text := range map[string]string{"short": "abcd", "no hex": strings.Repeat("xy", 32), "empty": ""} {
		if _, err := readKey(write(t, filepath.Join(dir, "key"), text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The message as ip route add default via 10.0.2.2 sends it, but for interface and optional fields.
func TestNewRouteMessage(t *testing.T) {
	want := []byte{
		36, 0, 0, 0, 24, 0, 0x05, 0x04, 1, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr: RTM_NEWROUTE, REQUEST|ACK|CREATE
		2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0, // rtmsg: main table, boot, universe, unicast
		8, 0, 5, 0, 10, 0, 2, 2, // RTA_GATEWAY
	}
	if diff := cmp.Diff(want, newRouteMessage(netip.MustParseAddr(Gateway))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Files of the user who made the image become root's; others keep their owner.
func TestOwnRoot(t *testing.T) {
	need.Root(t)
	root := t.TempDir()
	const maker, other = 4711, 4712
	owners := map[string]int{"sbin/init": maker, "etc/conf": maker, "home/file": other}
	for path := range owners {
		write(t, filepath.Join(root, path), "x")
	}
	for path, uid := range owners {
		if err := os.Chown(filepath.Join(root, path), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := ownRoot(root); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for path := range owners {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		got[path] = int(info.Sys().(*syscall.Stat_t).Uid)
	}
	if diff := cmp.Diff(map[string]int{"sbin/init": 0, "etc/conf": 0, "home/file": other}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := ownRoot(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a root without init: %v", err)
	}
}
