package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab/guest"
)

// A holder is another process that has made a machine.
type holder struct {
	cmd  *exec.Cmd
	says *bufio.Scanner
}

// startHolder starts a process that makes a machine in dir, and waits until it says word.
func startHolder(t *testing.T, cfg Config, word string) *holder {
	t.Helper()
	cfg.Init = buildInit(t)
	return startHolderProcess(t, exec.Command(os.Args[0]), cfg, word)
}

func startHolderProcess(t *testing.T, cmd *exec.Cmd, cfg Config, word string) *holder {
	t.Helper()
	config, err := json.Marshal(map[string]any{"Dir": cfg.Dir, "Init": cfg.Init, "Cache": cfg.Cache, "Services": cfg.Services})
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = append(cmd.Args, holderArg, string(config))
	h := &holder{cmd: cmd}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.kill)
	h.says = bufio.NewScanner(out)
	var said []string
	for h.says.Scan() {
		if strings.HasPrefix(h.says.Text(), word) {
			return h
		}
		said = append(said, h.says.Text())
	}
	t.Fatalf("the holder ended without saying %q: %q", word, said)
	return nil
}

// kill is kill -9.
func (h *holder) kill() {
	h.cmd.Process.Kill()
	h.cmd.Wait()
}

func TestKilledProgramLeavesNothing(t *testing.T) {
	place(t)
	for name, moment := range map[string]string{"while the machine boots": "starting the machine", "while it runs": "up"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "machine")
			h := startHolder(t, Config{Dir: dir}, moment)
			for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if _, err := os.Stat(filepath.Join(dir, runFile)); err == nil {
					break
				}
			}
			all := processes(t, dir)
			h.kill()
			expectGone(t, dir, all)
		})
	}
}

// Not even the one process that cleans up is needed for the others to end.
func TestKilledSupervisorTakesTheMachineWithIt(t *testing.T) {
	place(t)
	m := boot(t, Config{})
	all := processes(t, m.Dir())
	if err := all[len(all)-1].Kill(); err != nil {
		t.Fatal(err)
	}
	for _, child := range all {
		if err := child.Await(20 * time.Second); err != nil {
			t.Error(err)
		}
	}
	if running, ended := m.Running(t.Context()); running {
		t.Error("reported as running")
	} else if !strings.Contains(ended, ErrNoSupervisor.Error()) {
		t.Errorf("ended: %s", ended)
	}
	if err := m.Down(t.Context()); err != nil {
		t.Error(err)
	}
	expectGone(t, m.Dir(), nil)
}

func TestDetachedMachineOutlivesItsMaker(t *testing.T) {
	place(t)
	dir := filepath.Join(t.TempDir(), "machine")
	h := startHolder(t, Config{Dir: dir, Services: []guest.Service{{Name: "detach", Args: []string{"/bin/sleep", "1000"}}}}, "up")
	h.kill()
	time.Sleep(time.Second)
	m, err := Attach(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, m, "echo still here"); got != "still here" {
		t.Errorf("got %q", got)
	}
	if err := m.PowerCut(t.Context()); err != nil {
		t.Errorf("power cut by a stranger: %v", err)
	}
	all := processes(t, dir)
	if err := m.Down(t.Context()); err != nil {
		t.Error(err)
	}
	expectGone(t, dir, all)
}

// A machine whose policy the kernel refuses does not run unmeasured, and its maker is told why.
func TestRefusedPolicyIsFatal(t *testing.T) {
	place(t)
	dir := filepath.Join(t.TempDir(), "machine")
	bad := []byte("measure func=BPRM_CHECK mask=MAY_EXEC\nmeasure func=NO_SUCH_CHECK\n")
	_, err := Up(t.Context(), Config{Dir: dir, Init: buildInit(t), IMAPolicy: bad})
	if err == nil || !strings.Contains(err.Error(), "load IMA policy "+guest.PolicyPath) {
		t.Errorf("got %v", err)
	}
	expectGone(t, dir, nil)
}

func TestCancelledUpLeavesNothing(t *testing.T) {
	place(t)
	dir := filepath.Join(t.TempDir(), "machine")
	ctx, cancel := context.WithCancel(t.Context())
	progress := func(step string) {
		if strings.HasPrefix(step, "starting") {
			time.AfterFunc(time.Second, cancel)
		}
	}
	if _, err := Up(ctx, Config{Dir: dir, Init: buildInit(t), Progress: progress}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	expectGone(t, dir, nil)
}

func TestUpNamesWhatQEMURefuses(t *testing.T) {
	place(t)
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "machine")
	_, err = Up(t.Context(), Config{Dir: dir, Init: buildInit(t), Forward: []Port{{Guest: 1, Host: port}, {Guest: 2, Host: port}}})
	if err == nil || !strings.Contains(err.Error(), "host forwarding") {
		t.Errorf("got %v", err)
	}
	expectGone(t, dir, nil)
}

// A machine needs no root on the host, and inside it root owns everything all the same. Its folder may have a path that no socket could have.
func TestUnprivilegedUserHasALab(t *testing.T) {
	need.Root(t) // to become somebody else
	place(t)
	const nobody = 65534
	base := t.TempDir()
	own := map[string]string{"binary": os.Args[0], initName: buildInit(t)}
	for name, source := range own {
		data, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(base, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The test's own cache may be out of nobody's reach.
	cache, err := cacheFolder()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FetchKernel(t.Context(), cache, func(string) {}); err != nil {
		t.Fatal(err)
	}
	kernels, err := filepath.Glob(filepath.Join(cache, "linux-image-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, kernel := range kernels {
		if info, err := os.Stat(kernel); err != nil || !info.IsDir() {
			continue
		}
		if err := os.CopyFS(filepath.Join(base, "cache", filepath.Base(kernel)), os.DirFS(kernel)); err != nil {
			t.Fatal(err)
		}
	}
	home := filepath.Join(base, strings.Repeat("a-rather-long-name-", 6))
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Dir(base), base, filepath.Join(base, "cache"), home} {
		if err := errors.Join(os.Chmod(path, 0o755), os.Chown(path, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(base, "binary"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd.Dir, cmd.Env = home, append(os.Environ(), "HOME="+home, "TMPDIR="+home, "XDG_CACHE_HOME=")
	dir := filepath.Join(home, "machine")
	h := startHolderProcess(t, cmd, Config{Dir: dir, Init: filepath.Join(base, initName), Cache: filepath.Join(base, "cache")}, "up")
	m, err := Attach(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, m, "find / -xdev ! -user root"); got != "" {
		t.Errorf("not root's: %s", got)
	}
	checkList(t, m)
	all := processes(t, dir)
	h.kill()
	expectGone(t, dir, all)
}
