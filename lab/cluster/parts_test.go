package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/guest"
)

// hybrid is a host that mounts version 2 beside version 1, with the controllers in the latter and this process in a group of memory.
const (
	hybridMounts = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpuacct,cpu
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/usr/lib/agent,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`
	hybridGroups = "4:memory:/jobs/7\n3:cpu,cpuacct:/\n2:name=systemd:/user.slice\n0::/user.slice\n"
)

func TestHierarchies(t *testing.T) {
	for name, c := range map[string]struct {
		mounts, groups string
		want           []hierarchy
	}{
		"hybrid": {hybridMounts, hybridGroups, []hierarchy{
			{Mount: "/sys/fs/cgroup/cpu,cpuacct", Root: "/", Options: "cpu,cpuacct", Group: "node"},
			{Mount: "/sys/fs/cgroup/memory", Root: "/", Options: "memory", Group: "jobs/7/node"},
			{Mount: "/sys/fs/cgroup/systemd", Root: "/", Options: "name=systemd", Group: "user.slice/node"},
		}},
		"version 2": {"30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n", "0::/user.slice/shell\n", []hierarchy{
			{Mount: "/sys/fs/cgroup", Root: "/", Group: "node"},
		}},
		"in a container": {"32 30 0:28 /jobs /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "4:memory:/jobs/7\n", []hierarchy{
			{Mount: "/sys/fs/cgroup/memory", Root: "/jobs", Options: "memory", Group: "7/node"},
		}},
	} {
		got, err := hierarchies(strings.NewReader(c.mounts), strings.NewReader(c.groups), "node")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestHierarchiesRefuse(t *testing.T) {
	for name, c := range map[string]struct{ mounts, groups, want string }{
		"none mounted":    {"22 1 254:0 / / rw - ext4 /dev/vda rw\n", "", "no cgroups are mounted on /sys/fs/cgroup"},
		"another's group": {"32 30 0:28 /jobs /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "4:memory:/other\n", "cgroup /other of this process is not below /jobs"},
		"not a group":     {hybridMounts, "memory\n", `line "memory"`},
	} {
		if _, err := hierarchies(strings.NewReader(c.mounts), strings.NewReader(c.groups), "node"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// ca is an authority of the test's own.
func ca(t *testing.T, now time.Time) *authority {
	t.Helper()
	a, err := newAuthority(t.TempDir(), now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestIssue(t *testing.T) {
	now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	a := ca(t, now)
	server, err := a.issue(holder{name: "kube-apiserver", hosts: []string{"kubernetes", "10.99.1.2"}}, now)
	if err != nil {
		t.Fatal(err)
	}
	user, err := a.issue(holder{name: "system:node:vm1", groups: []string{"system:nodes"}}, now)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	leaf := func(p pair) *x509.Certificate {
		pair, err := tls.X509KeyPair(p.cert, p.key)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
	verify := func(c *x509.Certificate, host string, use x509.ExtKeyUsage) error {
		_, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: host, KeyUsages: []x509.ExtKeyUsage{use}})
		return err
	}
	for _, host := range []string{"kubernetes", "10.99.1.2"} {
		if err := verify(leaf(server), host, x509.ExtKeyUsageServerAuth); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := verify(leaf(user), "", x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	if err := verify(leaf(user), "", x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("a user's certificate serves")
	}
	if subject := leaf(user).Subject; subject.CommonName != "system:node:vm1" || !slices.Equal(subject.Organization, []string{"system:nodes"}) {
		t.Errorf("subject %v", subject)
	}
}

func TestAuthorityIsKept(t *testing.T) {
	dir := t.TempDir()
	made, err := newAuthority(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := loadAuthority(dir)
	if err != nil || !loaded.key.Equal(made.key) || !loaded.cert.Equal(made.cert) {
		t.Errorf("the loaded authority is another: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, caKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file is %v: %v", info.Mode(), err)
	}
	if _, err := loadAuthority(t.TempDir()); err == nil {
		t.Error("an authority came from an empty folder")
	}
}

// TestImageIsReproducible: the same files, the same bytes; another file, another digest.
func TestImageIsReproducible(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	write := func(name, content string) []byte {
		if err := os.WriteFile(program, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := WriteImage(path, Image{Name: "assay.test/x:1", Files: map[string]string{"/bin/x": program}, Entrypoint: []string{"/bin/x"}}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	first := write("a.tar", "one")
	if string(write("b.tar", "one")) != string(first) {
		t.Error("the same content made another archive")
	}
	if string(write("c.tar", "two")) == string(first) {
		t.Error("another content made the same archive")
	}
	if !strings.Contains(string(first), `"io.containerd.image.name": "assay.test/x:1"`) && !strings.Contains(string(first), `"io.containerd.image.name":"assay.test/x:1"`) {
		t.Error("the image has no name")
	}
	err := WriteImage(filepath.Join(dir, "d.tar"), Image{Name: "assay.test/x:1", Files: map[string]string{"/x": "/no/such/file"}})
	if err == nil || !strings.Contains(err.Error(), "make image assay.test/x:1") {
		t.Errorf("%v", err)
	}
}

// TestTransplant: a program of the host goes over with its linker and libraries, a static one alone.
func TestTransplant(t *testing.T) {
	got := &transplant{files: map[string]lab.File{}}
	if err := got.program("mount", "/usr/bin/mount"); err != nil {
		t.Fatal(err)
	}
	var names []string
	for path, f := range got.files {
		names = append(names, filepath.Base(path))
		if info, err := os.Lstat(f.Source); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s comes from %s, which is no file: %v", path, f.Source, err)
		}
	}
	for _, want := range []string{"mount", "libc.so.6", "libmount.so.1"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing of %v", want, names)
		}
	}
	if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "ld-linux") }) {
		t.Errorf("no linker in %v", names)
	}
	if err := got.program("no-such-program", "/x"); err == nil {
		t.Error("a program that is not there was taken")
	}
	if _, err := findLibraries([]string{"libnobody.so.1"}); err == nil {
		t.Error("a library that is not there was found")
	}
}

func TestConfigMistakes(t *testing.T) {
	_, err := Config{Workers: []Worker{{Name: "VM1", Kind: Machine}, {Name: "vm", Kind: "paper"}, {Name: "node1", Kind: Native}}, Images: []string{"/no/such.tar"}}.withDefaults()
	if err == nil {
		t.Fatal("no mistake was found")
	}
	for _, want := range []string{"no folder for the cluster", `worker "VM1"`, `kind "paper"`, "worker node1: there is another node", "/no/such.tar"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not among the mistakes: %v", want, err)
		}
	}
	good, err := Config{Dir: "x", Workers: []Worker{{Name: "vm-1", Kind: Machine}}}.withDefaults()
	if err != nil || !filepath.IsAbs(good.Dir) || good.Program == "" || good.Now == nil || good.Build.Progress == nil {
		t.Errorf("%+v, %v", good, err)
	}
}

func TestUpRefusesAFullFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := claimFolder(dir); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "mine") {
		t.Errorf("%v", err)
	}
	if _, err := Attach(dir); !errors.Is(err, ErrNoCluster) {
		t.Errorf("%v", err)
	}
}

// TestBuildKey: what goes into a build decides where its result is kept.
func TestBuildKey(t *testing.T) {
	checkout := t.TempDir()
	p := part{name: "x", source: "src", packages: []string{"."}, programs: []string{"x"}}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(checkout, "src", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key := func(p part) string {
		t.Helper()
		k, err := p.key(t.Context(), checkout)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write("go.sum", "a")
	write("main.go", "package main")
	first := key(p)
	write("README.md", "words decide nothing")
	if key(p) != first {
		t.Error("a file that is not built from changed the key")
	}
	write("go.sum", "b")
	second := key(p)
	p.ldflags = " -X main.x=y"
	if first == second || key(p) == second {
		t.Error("other dependencies or other flags have the same key")
	}
	if _, err := (part{source: "elsewhere"}).key(t.Context(), checkout); !errors.Is(err, ErrNoCheckout) {
		t.Errorf("%v", err)
	}
}

// TestBuild compiles a small part, once, and says what is wrong with one that does not compile.
func TestBuild(t *testing.T) {
	checkout := t.TempDir()
	for name, text := range map[string]string{"good/go.mod": "module good\n\ngo 1.26.0\n", "good/main.go": "package main\n\nfunc main() {}\n", "bad/go.mod": "module bad\n\ngo 1.26.0\n", "bad/main.go": "package main\n\nfunc main() { dance() }\n"} {
		path := filepath.Join(checkout, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var told []string
	c := BuildConfig{Checkout: checkout, Cache: t.TempDir(), Progress: func(text string) { told = append(told, text) }}
	good := part{name: "good", source: "good", packages: []string{"."}, programs: []string{"good"}, links: []string{"better"}}
	folder, err := good.build(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := os.Readlink(filepath.Join(folder, "better")); err != nil || out != "good" || len(told) != 2 {
		t.Errorf("link to %q: %v; told %q", out, err, told)
	}
	again, err := good.build(t.Context(), c)
	if err != nil || again != folder || len(told) != 2 {
		t.Errorf("built twice: %s, %v, told %q", again, err, told)
	}
	_, err = part{name: "bad", source: "bad", packages: []string{"."}, programs: []string{"bad"}}.build(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "undefined: dance") {
		t.Errorf("%v", err)
	}
	if left, err := filepath.Glob(filepath.Join(c.Cache, "*bad-*")); err != nil || len(left) > 0 {
		t.Errorf("a build that failed left %v: %v", left, err)
	}
}

// TestNoCheckout: away from a checkout the build says what it needs.
func TestNoCheckout(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := Build(t.Context(), BuildConfig{Cache: t.TempDir()}); !errors.Is(err, ErrNoCheckout) {
		t.Errorf("%v", err)
	}
}

// TestVersion: what the components say they are is what they are built from.
func TestVersion(t *testing.T) {
	data, err := os.ReadFile("../../" + parts()[0].source + "/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "k8s.io/kubernetes "+kubernetesVersion+"\n") {
		t.Errorf("go.mod has another version than %s", kubernetesVersion)
	}
}

// TestSettingsAreJSON, and leave no default that lies in a folder of the host.
func TestSettings(t *testing.T) {
	config, err := machineLayout.kubeletConfig()
	if err != nil || !json.Valid(config) || !strings.Contains(string(config), `"volumePluginDir": "/var/`) {
		t.Errorf("%v\n%s", err, config)
	}
	network, err := networkConfig(place(3).podCIDR())
	if err != nil || !json.Valid(network) || !strings.Contains(string(network), "10.244.3.0/24") {
		t.Errorf("%v\n%s", err, network)
	}
	toml := string(nativeLayout.containerdConfig())
	if strings.Contains(toml, "@") || !strings.Contains(toml, `path = "/var/lib/containerd/opt"`) || !strings.Contains(toml, `config_path = "/run/assay/conf/certs.d"`) {
		t.Errorf("%s", toml)
	}
	a := ca(t, time.Now())
	text, err := a.kubeconfig("https://10.99.1.2:6443", map[string]any{"token": "secret"})
	if err != nil || !json.Valid(text) || !strings.Contains(string(text), `"token": "secret"`) {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestRegistry: every node speaks to the host's registry without TLS, and to that one only.
func TestRegistry(t *testing.T) {
	c := &Cluster{ca: ca(t, time.Now()), now: time.Now, spec: spec{Number: "7", Token: "abcdef.0123456789abcdef"}}
	if got := c.Registry(); got != "10.99.7.1:5000" {
		t.Fatalf("the registry's address is %s", got)
	}
	for _, kind := range []Kind{Native, Machine} {
		files, err := c.nodeFiles(nativeLayout, nodeEntry{Name: "x", Kind: kind, Address: "10.98.1.2", Place: 1})
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		for name := range files {
			if strings.HasPrefix(name, registriesDir+"/") {
				told = append(told, name)
			}
		}
		const want = "certs.d/10.99.7.1:5000/hosts.toml"
		if !slices.Equal(told, []string{want}) || !strings.Contains(string(files[want]), `[host."http://10.99.7.1:5000"]`) {
			t.Errorf("%s: containerd is told of %v: %s", kind, told, files[want])
		}
	}
}

// TestMachineJoinsByToken: a native node is given its certificate, a machine asks for it.
func TestMachineJoinsByToken(t *testing.T) {
	c := &Cluster{ca: ca(t, time.Now()), now: time.Now, spec: spec{Number: "1", Token: "abcdef.0123456789abcdef"}}
	for _, kind := range []Kind{Native, Machine} {
		files, err := c.nodeFiles(machineLayout, nodeEntry{Name: "x", Kind: kind, Address: "10.98.1.2", Place: 1})
		if err != nil {
			t.Fatal(err)
		}
		own, token := files["kubelet.kubeconfig"] != nil, strings.Contains(string(files["bootstrap.kubeconfig"]), c.spec.Token)
		if own != (kind == Native) || token != (kind == Machine) {
			t.Errorf("%s: own certificate %v, token %v", kind, own, token)
		}
	}
	arguments := fmt.Sprint(machineLayout.workerServices("x", "10.98.1.2", true)[1].Args)
	if !strings.Contains(arguments, "--kubeconfig /var/lib/kubelet/kubeconfig") || !strings.Contains(arguments, "--bootstrap-kubeconfig /etc/kubernetes/bootstrap.kubeconfig") {
		t.Errorf("%s", arguments)
	}
}

func TestKeeper(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	k := newKeeper([]guest.Service{{Name: "sleeper", Args: []string{"/bin/sh", "-c", "echo awake; exec sleep 60"}, Log: log}}, slog.New(slog.DiscardHandler))
	starts := func(want int) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			data, _ := os.ReadFile(log)
			if got := strings.Count(string(data), "awake"); got == want {
				return
			} else if time.Now().After(end) {
				t.Fatalf("%d starts, want %d", got, want)
			}
		}
	}
	starts(1)
	for i, step := range []struct {
		ask    string
		starts int
	}{{askReady, 1}, {askRestart, 2}, {askPause, 2}, {askPause, 2}, {askGoOn, 3}, {askGoOn, 3}} {
		if err := k.do(step.ask, "sleeper"); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
		starts(step.starts)
	}
	if err := k.do(askRestart, "nobody"); err == nil || !strings.Contains(err.Error(), `no service "nobody"`) {
		t.Errorf("%v", err)
	}
	if err := k.do("dance", "sleeper"); err == nil || !strings.Contains(err.Error(), `unknown request "dance"`) {
		t.Errorf("%v", err)
	}
	if err := k.do(askPause, "sleeper"); err != nil {
		t.Error(err)
	}
}

// TestTools: programs of other modules are pinned as tools where they are built.
func TestTools(t *testing.T) {
	for _, p := range append(parts(), kwok(), certManager()) {
		data, err := os.ReadFile("../../" + p.source + "/go.mod")
		for _, pkg := range p.packages {
			if !strings.HasPrefix(pkg, ".") && (err != nil || !strings.Contains(string(data), pkg)) {
				t.Errorf("%s does not pin %s: %v", p.source, pkg, err)
			}
		}
	}
}
