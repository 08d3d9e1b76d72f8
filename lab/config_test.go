package lab

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/lab/host"
)

// script puts a program of a few shell lines first in PATH.
func script(t *testing.T, dir, name, body string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestConfigMistakesAreReportedAtOnce(t *testing.T) {
	_, err := Config{
		Firmware: "coreboot", MemoryMiB: 16, Init: "/no/such/init", Files: []File{{Path: "relative"}, {Path: "/a/../b"}},
		Forward: []Port{{Guest: 0}, {Guest: 80, Host: 70000}}, KernelArgs: []string{"two words"},
		Taps: []Tap{{Name: "a/b"}, {Name: "sixteen-letters-"}, {Name: "tap0", Address: "10.0.0.1", Gateway: "::1"}},
	}.withDefaults()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"no folder", `"coreboot"`, "16 MiB", "/no/such/init", `"relative"`, `"/a/../b"`, "port 0 to 0", "port 70000 to 80", `"two words"`,
		`tap "a/b"`, `tap "sixteen-letters-"`, `address "10.0.0.1"`, `gateway "::1"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %s in:\n%v", want, err)
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	cfg, err := Config{Dir: "m", Init: os.Args[0]}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(cfg.Dir) || cfg.Firmware != SeaBIOS || len(cfg.IMAPolicy) == 0 || cfg.Cache == "" || len(cfg.Supervisor) != 3 {
		t.Errorf("got %+v", cfg)
	}
	if got := commandLine(cfg); !strings.Contains(got, "ima_policy=tcb ima_hash=sha256 ima_template=ima-ng") {
		t.Errorf("kernel command line %q", got)
	}
	none, err := Config{Dir: "m", Init: os.Args[0], IMAPolicy: []byte{}}.withDefaults()
	if err != nil || len(none.IMAPolicy) != 0 {
		t.Errorf("no policy wanted, got %d bytes, %v", len(none.IMAPolicy), err)
	}
}

func TestFolderRefusesPaths(t *testing.T) {
	for _, name := range []string{"..", ".hidden", "a/b", "/abs"} {
		if got, err := Folder(name); err == nil {
			t.Errorf("%q gave %s", name, got)
		}
	}
	base, err := Folder("")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Folder("m1"); err != nil || filepath.Dir(got) != base {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestMissingNamesPackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var packages []string
	for _, m := range Missing(SeaBIOS) {
		packages = append(packages, m.Package)
	}
	for _, want := range []string{"qemu-system-x86", "swtpm", "swtpm-tools", "busybox-static", "dpkg"} {
		if !slices.Contains(packages, want) {
			t.Errorf("nothing about %s in %v", want, packages)
		}
	}
	if err := checkHost(SeaBIOS); runtime.GOARCH == "amd64" && (!errors.Is(err, host.ErrMissing) || !strings.Contains(err.Error(), "qemu-system-x86_64")) {
		t.Errorf("got %v", err)
	}
}

func TestDynamicBusyboxIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/bin/ls", filepath.Join(dir, "busybox")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if _, err := staticBusybox(); !errors.Is(err, host.ErrMissing) || !strings.Contains(err.Error(), "dynamically") {
		t.Errorf("got %v", err)
	}
}

func TestKernelPackageErrors(t *testing.T) {
	tests := map[string]struct{ cache, get, want string }{
		"apt knows nothing":  {"echo 'E: No packages found' >&2; exit 100", "exit 1", "apt-get update"},
		"depends on nothing": {"echo linux-image-cloud-amd64", "exit 1", "no kernel image"},
		"download fails":     {"echo '  Depends: linux-image-9.9-cloud-amd64'", "echo 'E: 404 Not Found' >&2; exit 100", "404 Not Found"},
		"nothing came":       {"echo '  Depends: linux-image-9.9-cloud-amd64'", "exit 0", "left 0 packages"},
		"no archive":         {"echo '  Depends: linux-image-9.9-cloud-amd64'", "echo junk > a.deb", "dpkg-deb"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script(t, dir, "apt-cache", tt.cache)
			script(t, dir, "apt-get", tt.get)
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			cache := t.TempDir()
			_, err := FetchKernel(t.Context(), cache, func(string) {})
			if !errors.Is(err, ErrNoKernel) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want something about %q", err, tt.want)
			}
			if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
				t.Errorf("%d files left in the cache, %v", len(left), err)
			}
		})
	}
}

// Without a network a kernel that was fetched earlier does.
func TestCachedKernelServesWithoutApt(t *testing.T) {
	cache := t.TempDir()
	for _, file := range []string{"boot/vmlinuz-9.8", "lib/modules/9.8/modules.builtin"} {
		path := filepath.Join(cache, "linux-image-9.8-cloud-amd64", file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, aptCache := range map[string]string{"apt knows nothing": "exit 100", "a newer one is out of reach": "echo '  Depends: linux-image-9.9-cloud-amd64'"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script(t, dir, "apt-cache", aptCache)
			script(t, dir, "apt-get", "exit 100")
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			k, err := FetchKernel(t.Context(), cache, func(string) {})
			if err != nil || k.Release != "9.8" {
				t.Errorf("got %+v, %v", k, err)
			}
		})
	}
}

func TestUpRefusesAFolderInUse(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := claimFolder(dir); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "mine") {
		t.Errorf("got %v", err)
	}
	if err := claimFolder(filepath.Join(dir, "new", "one")); err != nil {
		t.Error(err)
	}
}

// A CPU's flags decide, and not the presence of the device.
func TestCPUVirtualises(t *testing.T) {
	tests := map[string]struct {
		cpuinfo string
		want    bool
	}{
		"Intel":          {"processor\t: 0\nflags\t\t: fpu vmx sse\n", true},
		"AMD":            {"flags\t\t: fpu svm\n", true},
		"neither":        {"flags\t\t: fpu sse hypervisor\n", false},
		"part of a word": {"flags\t\t: svm_lock vmxfoo\n", false},
		"another line":   {"bugs\t\t: vmx\nvmx flags\t: vmx svm\n", false},
		"nothing":        {"", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := cpuVirtualises(strings.NewReader(tt.cpuinfo))
			if err != nil || got != tt.want {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestQEMUArgs(t *testing.T) {
	s := spec{Firmware: OVMF, MemoryMiB: 512, Kernel: "/k", Append: "a b", Forward: []Port{{Guest: 9002, Host: 21000}}, ExecPort: 22000,
		Taps: []plug{{MAC: "52:54:00:80:00:01"}, {MAC: "52:54:00:80:00:02"}}}
	args := strings.Join(qemuArgs(s, []string{"-accel", "kvm"}, "tpm/sock"), " ")
	for _, want := range []string{
		"hostfwd=tcp:127.0.0.1:21000-10.0.2.15:9002", "restrict=on,hostfwd=tcp:127.0.0.1:22000-10.0.3.15:7070", "socket,id=tpm,path=tpm/sock", ovmfCode, "file=" + varsFile, "-accel kvm",
		"tap,id=tap0,fd=3", "tap,id=tap1,fd=4", "netdev=tap1,romfile=,mac=52:54:00:80:00:02",
	} {
		if !strings.Contains(args, want) {
			t.Errorf("nothing about %s in %s", want, args)
		}
	}
	if strings.Contains(args, "no-reboot") {
		t.Error("a machine must be able to reboot")
	}
	s.Firmware = SeaBIOS
	if args := strings.Join(qemuArgs(s, nil, ""), " "); strings.Contains(args, "pflash") {
		t.Error("SeaBIOS with flash")
	}
}

func TestChoosePorts(t *testing.T) {
	exec, forward, err := choosePorts([]Port{{Guest: 1}, {Guest: 2, Host: 4242}, {Guest: 3}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{exec: true}
	for _, p := range forward {
		if seen[p.Host] || p.Host == 0 {
			t.Errorf("port %d twice or not chosen", p.Host)
		}
		seen[p.Host] = true
	}
	if forward[1].Host != 4242 {
		t.Errorf("a wanted port became %d", forward[1].Host)
	}
}

// A link of the tree that points at an absolute path must never lead the lab out of the tree, onto the host.
func TestFilesStayInTheTree(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := (File{Path: "/bin/tool", Mode: 0o755, Data: []byte("x")}).place(root); err == nil {
		t.Error("placed through the link")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("%d files outside, %v", len(left), err)
	}
	for range 2 { // the second replaces the first
		if err := (File{Path: "/usr/bin/tool", Mode: 0o751, Data: []byte("x")}).place(root); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "usr/bin/tool"))
	if err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestQMP(t *testing.T) {
	const greeting = `{"QMP":{"version":{}}}`
	tests := map[string]struct {
		qemu string
		want string // in the error of set_link; empty for none
	}{
		"answers":        {greeting + `{"return":{}}{"event":"RESET"}{"return":{}}`, ""},
		"refuses":        {greeting + `{"return":{}}{"error":{"class":"DeviceNotFound","desc":"Device 'net0' not found"}}`, "Device 'net0' not found"},
		"ends":           {greeting + `{"return":{}}`, "is gone"},
		"does not greet": {`{"return":{}}`, "something else"},
		"is not there":   {``, "is gone"},
		"speaks no JSON": {`qemu: could not`, "is gone"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var sent bytes.Buffer
			var events []string
			q := newQMP(&sent, strings.NewReader(tt.qemu), func(name string) { events = append(events, name) })
			err := q.greet()
			if err == nil {
				err = q.execute("set_link", map[string]any{"name": "net0", "up": false})
			}
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				want := "{\"execute\":\"qmp_capabilities\"}\n{\"arguments\":{\"name\":\"net0\",\"up\":false},\"execute\":\"set_link\"}\n"
				if diff := cmp.Diff(want, sent.String()); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
				if diff := cmp.Diff([]string{"RESET"}, events); diff != "" {
					t.Errorf("events: (-want +got)\n%s", diff)
				}
				return
			}
			if !errors.Is(err, ErrQMP) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want something about %q", err, tt.want)
			}
		})
	}
}

func TestAttachNeedsAMachine(t *testing.T) {
	dir := t.TempDir()
	if _, err := Attach(dir); !errors.Is(err, ErrNoMachine) {
		t.Errorf("empty folder: %v", err)
	}
	if machines, err := List(filepath.Join(dir, "none")); err != nil || machines != nil {
		t.Errorf("no folder: %v, %v", machines, err)
	}
	m := filepath.Join(dir, "broken")
	if err := os.MkdirAll(m, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m, specFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(m); err == nil || errors.Is(err, ErrNoMachine) || !strings.Contains(err.Error(), m) {
		t.Errorf("broken file: %v", err)
	}
	if _, err := List(dir); err == nil {
		t.Error("a broken machine was listed")
	}
}

// A supervisor may die between a question and its answer.
func TestAskOfADyingSupervisor(t *testing.T) {
	folder := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(folder, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, answer := range []string{"", `{"text":`, `{"text":"off"}`} {
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			conn.Write([]byte(answer))
			conn.Read(make([]byte, 1)) // of a question that is longer: the close resets the connection
		}()
		_, err := ask(t.Context(), folder, askStatus)
		if whole := strings.HasSuffix(answer, "}"); whole != (err == nil) {
			t.Errorf("%q: %v", answer, err)
		} else if answer == "" && !errors.Is(err, ErrNoSupervisor) {
			t.Errorf("%q: %v, want ErrNoSupervisor", answer, err)
		}
	}
}
