package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// newMachine starts a machine that ends with the test.
func newMachine(t *testing.T) (machine, *leash.Child) {
	t.Helper()
	need.Root(t)
	need.Program(t, "util-linux", "unshare", "nsenter")
	need.Program(t, "iproute2", "ip")
	folder := filepath.Join(t.TempDir(), "machine")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (machine{folder: folder}).setHosts(map[string]string{"node1": "192.0.2.1", "node2": "192.0.2.2"}); err != nil {
		t.Fatal(err)
	}
	child, m, err := startMachine(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		child.Pull()
		<-child.Ended()
	})
	return m, child
}

// hosts is what the machine finds in /etc/hosts.
func (m machine) hosts(t *testing.T) string {
	t.Helper()
	text, err := host.RunTool(m.command(t.Context(), "cat", "/etc/hosts"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestMachine: names and network of its own, and nothing of the host's changes.
func TestMachine(t *testing.T) {
	before, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	m, _ := newMachine(t)
	if got := m.hosts(t); got != "127.0.0.1 localhost\n192.0.2.1 node1\n192.0.2.2 node2\n" {
		t.Errorf("hosts %q", got)
	}
	if err := m.setHosts(map[string]string{"node1": "192.0.2.2", "node2": "192.0.2.1"}); err != nil {
		t.Fatal(err)
	}
	if got := m.hosts(t); got != "127.0.0.1 localhost\n192.0.2.2 node1\n192.0.2.1 node2\n" {
		t.Errorf("swapped: hosts %q", got)
	}
	if after, err := os.ReadFile("/etc/hosts"); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the host's own file changed: %v", err)
	}
	links, err := host.RunTool(m.command(t.Context(), "ip", "-oneline", "link"))
	if err != nil || strings.Count(links, "\n") != 1 || !strings.Contains(links, "lo:") || !strings.Contains(links, "UP") {
		t.Errorf("links %q, %v; want its own loopback alone", links, err)
	}
	if err := m.restart(t.Context(), "/no/such/assay"); err == nil || !strings.Contains(err.Error(), "/no/such/assay") {
		t.Errorf("a server that is not there: %v", err)
	}
	if _, err := leash.Ask(t.Context(), m.folder, leash.Request{Ask: "dance"}); err == nil || !strings.Contains(err.Error(), `unknown request "dance"`) {
		t.Errorf("nonsense: %v", err)
	}
}

// TestMachineEnds, in all of its ways, with its server and its folder.
func TestMachineEnds(t *testing.T) {
	for name, end := range map[string]func(*testing.T, machine, *leash.Child){
		"parent": func(_ *testing.T, _ machine, c *leash.Child) { c.Pull() },
		"asked": func(t *testing.T, m machine, c *leash.Child) {
			if err := c.Detach(); err != nil {
				t.Fatal(err)
			}
			// It may be gone before its answer is.
			if _, err := leash.Ask(t.Context(), m.folder, leash.Request{Ask: askDown}); err != nil && !errors.Is(err, leash.ErrNotRunning) {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, child := newMachine(t)
			// The server is whatever runs under this name; one that ends by itself is a server that failed.
			if err := m.restart(t.Context(), "/bin/false"); err != nil {
				t.Fatal(err)
			}
			end(t, m, child)
			select {
			case <-child.Ended():
			case <-time.After(time.Minute):
				t.Fatal("it still runs")
			}
			if _, err := os.Stat(m.folder); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its folder is there: %v", err)
			}
			if _, err := findMachine(t.Context(), m.folder); !errors.Is(err, leash.ErrNotRunning) {
				t.Errorf("it is found: %v", err)
			}
		})
	}
}

// TestCleanEndsAMachine that a run left without a cluster, and is content with nothing.
func TestCleanEndsAMachine(t *testing.T) {
	m, child := newMachine(t)
	p := &place{dir: filepath.Dir(m.folder), out: t.Output()}
	for range 2 {
		if err := clean(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(p.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s is there: %v", p.dir, err)
		}
	}
	<-child.Ended()
}

func TestCommandMistakes(t *testing.T) {
	for line, want := range map[string]string{"": `"": want one of clean, e2e, realclean, run, verify`, "jump": "want one of", "run verify": `"run verify": want one of`, "-dri x run": "-dri"} {
		if err := command(t.Context(), strings.Fields(line), t.Output()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
}

// TestRunNeedsABuild: what is missing is told with what makes it, before anything starts.
func TestRunNeedsABuild(t *testing.T) {
	p := &place{dir: filepath.Join(t.TempDir(), "outside"), build: t.TempDir(), out: t.Output()}
	if err := run(t.Context(), p); err == nil || !strings.Contains(err.Error(), "assay-agent") || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without images: %v", err)
	}
	if err := os.Mkdir(filepath.Join(p.build, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"assay-agent", "assay-operator", "assay-swtpm"} {
		if err := os.Rename(layout(t, "index.json", index), filepath.Join(p.build, "images", name+".tar")); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(t.Context(), p); err == nil || !strings.Contains(err.Error(), "make programs helm") {
		t.Errorf("without programs: %v", err)
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder was made: %v", err)
	}
}

const index = `{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "v7"}}]}`

// layout writes an archive with one file.
func layout(t *testing.T, name, content string) string {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImageTag(t *testing.T) {
	if tag, err := imageTag(layout(t, "index.json", index)); err != nil || tag != "v7" {
		t.Errorf("%q, %v", tag, err)
	}
	for name, row := range map[string]struct{ file, content, want string }{
		"no index":      {"oci-layout", "{}", "find index.json"},
		"not JSON":      {"index.json", "]", "index.json: invalid"},
		"no image":      {"index.json", `{"manifests": []}`, "names no image"},
		"no annotation": {"index.json", `{"manifests": [{}]}`, "names no image"},
		"endless":       {"index.json", `{"a": "` + strings.Repeat("a", maxIndexBytes) + `"}`, "unexpected EOF"},
	} {
		if tag, err := imageTag(layout(t, row.file, row.content)); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %q, %v; want %q", name, tag, err, row.want)
		}
	}
	if _, err := imageTag(filepath.Join(t.TempDir(), "none.tar")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no archive: %v", err)
	}
}

// TestChartValues: the values are those of a control plane elsewhere, and nothing else is in them.
func TestChartValues(t *testing.T) {
	var values struct {
		Images struct{ Registry, Tag, PullPolicy string } `json:"images"`
		Server v1alpha1.ServerSpec                        `json:"server"`
		Agent  v1alpha1.AgentSpec                         `json:"agent"`
	}
	if err := yaml.UnmarshalStrict([]byte(chartValues("v7")), &values); err != nil {
		t.Fatal(err)
	}
	e := values.Server.External
	if e == nil || e.Address != apiAddress() || e.JoinTokenSecret == "" || e.OperatorSecret == "" {
		t.Errorf("external %+v", e)
	}
	if a := values.Agent; !a.HostNetwork || a.Contact != v1alpha1.ContactNodeName || a.TPM != v1alpha1.TPMEmulated || len(a.EmulatedNodeSelector) == 0 {
		t.Errorf("agent %+v", a)
	}
	if values.Images.Tag != "v7" {
		t.Errorf("images %+v", values.Images)
	}
}

// TestAddresses: both ends of the link are in one network.
func TestAddresses(t *testing.T) {
	network := netip.MustParsePrefix(linkOfNode + linkMask).Masked()
	if !network.Contains(netip.MustParseAddr(machineHost)) || linkOfNode == machineHost {
		t.Errorf("%s is not beside %s in %s", machineHost, linkOfNode, network)
	}
}

// TestEventually ends with its context, and says what was missing last.
func TestEventually(t *testing.T) {
	w := &world{place: &place{out: t.Output()}}
	asked := 0
	err := w.eventually(t.Context(), "it comes", func(context.Context) error {
		if asked++; asked < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || asked != 2 {
		t.Errorf("asked %d times, %v", asked, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = w.eventually(ctx, "it comes", func(context.Context) error { return errors.New("the bus is late") })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "it comes: ") || !strings.Contains(err.Error(), "the bus is late") {
		t.Errorf("%v", err)
	}
}
