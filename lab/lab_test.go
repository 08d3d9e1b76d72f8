package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab/guest"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// What this test binary becomes when it is started as another process of a test.
const (
	holderArg = "hold" // makes the machine of a Config in JSON, says what it did and waits for its end
)

func TestMain(m *testing.M) {
	RunSupervisor()
	if len(os.Args) == 3 && os.Args[1] == holderArg {
		hold(os.Args[2])
		return
	}
	os.Exit(m.Run())
}

// hold stands in for a command line program that somebody kills.
func hold(config string) {
	var cfg Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		panic(err)
	}
	cfg.Progress = func(step string) { fmt.Println(step) }
	m, err := Up(context.Background(), cfg)
	if err != nil {
		fmt.Println("failed:", err)
		return
	}
	if len(cfg.Services) > 0 && cfg.Services[0].Name == "detach" {
		if err := m.Detach(); err != nil {
			fmt.Println("failed:", err)
			return
		}
	}
	fmt.Println("up")
	select {}
}

// buildInit builds the machine's init once per test run.
func buildInit(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab-init-*")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, initName)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/assay-project/assay/cmd/assay-labinit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the init: %v\n%s", err, out)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return path
}

// place waits for the lab's place on this host, for the whole test.
func place(t *testing.T) {
	t.Helper()
	need.Lab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	release, err := Exclusive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { release() })
}

// boot makes a machine that ends with the test.
func boot(t *testing.T, cfg Config) *Machine {
	t.Helper()
	cfg.Dir = filepath.Join(t.TempDir(), "machine")
	if cfg.Init == "" {
		cfg.Init = buildInit(t)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(step string) { t.Log(step) }
	}
	m, err := Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console ends with: %s", host.Tail(m.Console(), 20))
		}
		if err := m.Down(context.Background()); err != nil {
			t.Errorf("down: %v", err)
		}
	})
	return m
}

// output runs a shell command in the machine and returns what it says.
func output(t *testing.T, m *Machine, script string) string {
	t.Helper()
	out, err := m.Output(t.Context(), "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// One machine with SeaBIOS, in order: what it is, what it carries, how it is cut, restarted and ended.
func TestMachine(t *testing.T) {
	place(t)
	tree := t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, "opt", "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "opt", "app", "tool"), []byte("#!/bin/sh\necho from the tree\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := boot(t, Config{
		Tree:  tree,
		Files: []File{{Path: "/etc/greeting", Mode: 0o640, Data: []byte("hello\n")}, {Path: "/opt/link", Link: "app/tool"}},
		Services: []guest.Service{
			{Name: "early", Args: []string{"/bin/sh", "-c", "echo ran > /run/early; sleep 1000"}},
			{Name: "late", Args: []string{"/bin/sh", "-c", "ip addr show dev eth0 | grep -c 'inet ' > /run/late; sleep 1000"}, AfterNetwork: true},
			{Name: "web", Args: []string{"/bin/sh", "-c", "while :; do nc -l -p 8000 -e /bin/cat /etc/greeting; done"}, AfterNetwork: true},
			{Name: "worker", Args: []string{"/bin/sleep", "100000"}, User: "assay", Log: "/tmp/worker.log"},
		},
		Forward: []Port{{Guest: 8000}},
	})
	steps := []struct {
		name string
		run  func(t *testing.T, m *Machine)
	}{
		{"measures from the policy on", checkList}, {"policy is closed", checkPolicyClosed}, {"has a TPM", checkTPM}, {"measures volatile file systems", checkVolatile},
		{"root file system", checkRoot}, {"exit codes and users", checkExec}, {"files", checkFiles}, {"services", checkServices},
		{"host from inside", checkHostReachable}, {"cable", checkCable}, {"attach", checkAttach},
		{"reboot", checkReboot}, {"reboot from inside", checkRebootFromInside}, {"power cut", checkPowerCut}, {"switched off from inside", checkPowerOff},
		{"down leaves nothing", checkDown},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, m) }) {
			t.Fatal("the next steps build on this one")
		}
	}
}

func checkRoot(t *testing.T, m *Machine) {
	got := output(t, m, "/opt/link; cat /etc/greeting; stat -c '%u:%g %a' /etc/greeting /sbin/init; whoami; uname -r")
	want := "from the tree\nhello\n0:0 640\n0:0 755\nroot\n" + m.KernelRelease()
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(m.Tree(), "opt/app/tool")); err != nil {
		t.Errorf("the host's copy of the tree: %v", err)
	}
}

func checkExec(t *testing.T, m *Machine) {
	var stdout, stderr bytes.Buffer
	exit, err := m.Exec(t.Context(), guest.Command{
		Args: []string{"sh", "-c", "id -un; cat; echo oops >&2; exit 3"}, User: "assay",
		Stdin: strings.NewReader("input"), Stdout: &stdout, Stderr: &stderr,
	})
	if err != nil || exit != 3 || stdout.String() != "assay\ninput" || stderr.String() != "oops\n" {
		t.Errorf("exit %d, stdout %q, stderr %q, %v", exit, stdout.String(), stderr.String(), err)
	}
	if _, err := m.Exec(t.Context(), guest.Command{Args: []string{"/no/such"}}); !errors.Is(err, guest.ErrGuest) {
		t.Errorf("missing program: %v", err)
	}
	if _, err := m.Output(t.Context(), "sh", "-c", "echo why >&2; exit 9"); err == nil || !strings.Contains(err.Error(), "exit code 9: why") {
		t.Errorf("Output of a failed command: %v", err)
	}
}

func checkFiles(t *testing.T, m *Machine) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := m.WriteFile(t.Context(), "/root/data", 0o600, data); err != nil {
		t.Fatal(err)
	}
	back, err := m.ReadFile(t.Context(), "/root/data")
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d of %d bytes came back, %v", len(back), len(data), err)
	}
	if _, err := m.ReadFile(t.Context(), "/root/none"); !errors.Is(err, guest.ErrGuest) {
		t.Errorf("missing file: %v", err)
	}
}

func checkServices(t *testing.T, m *Machine) {
	if got := output(t, m, "cat /run/early /run/late"); got != "ran\n1" {
		t.Errorf("one early service, and one that has to wait for the network's address, said %q", got)
	}
	if got := fromPort(t, m.HostPort(8000)); got != "hello\n" {
		t.Errorf("the forwarded port says %q", got)
	}
	const worker = `ps | awk '$2 == "assay" && /sleep 100000/ {print $1}' | grep .`
	before := output(t, m, worker)
	output(t, m, "kill -9 "+before)
	for range 100 {
		after, err := m.Output(t.Context(), "sh", "-c", worker)
		if err == nil && strings.TrimSpace(after) != before {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("a killed service was not started again")
}

// fromPort returns what the host's port says, empty if nothing comes.
func fromPort(t *testing.T, port int) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	if err != nil {
		return ""
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func checkHostReachable(t *testing.T, m *Machine) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("host speaking\n"))
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if got := output(t, m, "nc "+guest.Gateway+" "+port+" < /dev/null"); got != "host speaking" {
		t.Errorf("got %q", got)
	}
	// The exec service's network leads nowhere.
	if got, err := m.Output(t.Context(), "nc", "-w", "2", "10.0.3.2", port); err == nil {
		t.Errorf("the control network reached the host: %q", got)
	}
}

func checkCable(t *testing.T, m *Machine) {
	if err := m.SetLink(t.Context(), LinkDown); err != nil {
		t.Fatal(err)
	}
	if got := fromPort(t, m.HostPort(8000)); got != "" {
		t.Errorf("with the cable pulled the port says %q", got)
	}
	if got := output(t, m, "cat /sys/class/net/eth0/carrier"); got != "0" {
		t.Errorf("carrier %q", got)
	}
	if err := m.SetLink(t.Context(), LinkUp); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if fromPort(t, m.HostPort(8000)) == "hello\n" {
			return
		}
	}
	t.Error("the network did not come back")
}

func checkAttach(t *testing.T, m *Machine) {
	machines, err := List(filepath.Dir(m.Dir()))
	if err != nil || len(machines) != 1 {
		t.Fatalf("%d machines listed, %v", len(machines), err)
	}
	other := machines[0]
	if running, ended := other.Running(t.Context()); !running {
		t.Errorf("not running: %s", ended)
	}
	if got := output(t, other, "echo $PPID") + other.Name(); !strings.HasSuffix(got, "machine") || len(got) == len("machine") {
		t.Errorf("got %q", got)
	}
	if other.HostPort(8000) != m.HostPort(8000) || other.HostPort(1) != 0 {
		t.Error("another list of ports")
	}
}

func checkReboot(t *testing.T, m *Machine) {
	port := m.HostPort(8000)
	before := output(t, m, "echo kept > /root/note; cat "+bootIDPath)
	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := output(t, m, "cat "+bootIDPath); after == before {
		t.Error("the same boot")
	}
	if got := output(t, m, "cat /root/note"); got != "kept" {
		t.Errorf("the disk holds %q", got)
	}
	if strings.Contains(output(t, m, "dmesg"), "recovery complete") {
		t.Error("an orderly reboot left the file system dirty")
	}
	if m.HostPort(8000) != port {
		t.Error("another port")
	}
	checkList(t, m)
}

func checkRebootFromInside(t *testing.T, m *Machine) {
	before := output(t, m, "cat "+bootIDPath)
	m.Exec(t.Context(), guest.Command{Args: []string{"reboot"}}) // it may end before it can say so
	if err := m.waitReady(t.Context(), before); err != nil {
		t.Fatal(err)
	}
}

func checkPowerCut(t *testing.T, m *Machine) {
	before := output(t, m, "echo synced > /root/synced; sync; echo lost > /root/unsynced; cat "+bootIDPath)
	if err := m.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := output(t, m, "cat "+bootIDPath); after == before {
		t.Error("the same boot")
	}
	if got := output(t, m, "cat /root/synced"); got != "synced" {
		t.Errorf("the disk holds %q", got)
	}
	if got, err := m.ReadFile(t.Context(), "/root/unsynced"); err == nil && len(got) > 0 {
		t.Errorf("what was never written survived: %q", got)
	}
	checkList(t, m)
}

func checkPowerOff(t *testing.T, m *Machine) {
	if err := m.Client().PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if running, ended := m.Running(t.Context()); !running {
			if !strings.Contains(ended, "switched off") {
				t.Errorf("ended: %s", ended)
			}
			if err := m.SetLink(t.Context(), LinkUp); err == nil {
				t.Error("the cable of a machine that is off was plugged")
			}
			if err := m.PowerCut(t.Context()); err != nil {
				t.Errorf("switch on: %v", err)
			}
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("still running")
}

func checkDown(t *testing.T, m *Machine) {
	children := processes(t, m.Dir())
	if err := m.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectGone(t, m.Dir(), children)
	if err := m.Down(t.Context()); err != nil {
		t.Errorf("once more: %v", err)
	}
	if _, err := Attach(m.Dir()); !errors.Is(err, ErrNoMachine) {
		t.Errorf("attach: %v", err)
	}
}

// processes returns those of a machine: its supervisor, QEMU and swtpm.
func processes(t *testing.T, dir string) []leash.Process {
	t.Helper()
	var r running
	if err := durable.ReadJSON(filepath.Join(dir, runFile), &r); err != nil {
		t.Fatal(err)
	}
	all := append(childrenOf(t, r.Supervisor.PID), r.Supervisor)
	if len(all) != 3 || !slices.Contains(all, r.QEMU) || !r.Supervisor.Alive() {
		t.Fatalf("supervisor %d has the children %v", r.Supervisor.PID, all)
	}
	return all
}

func childrenOf(t *testing.T, parent int) []leash.Process {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		t.Fatal(err)
	}
	var children []leash.Process
	for _, task := range tasks {
		list, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(list)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			if child, err := leash.Identify(pid); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// expectGone waits a little for what a machine consisted of to be gone.
func expectGone(t *testing.T, dir string, all []leash.Process) {
	t.Helper()
	for _, p := range all {
		if err := p.Await(20 * time.Second); err != nil {
			t.Error(err)
		}
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := os.Stat(dir)
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is left (%v)", dir, err)
		}
	}
}
