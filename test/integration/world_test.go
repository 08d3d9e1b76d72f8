package integration

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-project/assay/agent"
	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/cmd/assay/serve"
	"github.com/assay-project/assay/internal/conf"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/internal/swtpm"
)

// world is a server with its first administrator.
type world struct {
	t      *testing.T
	dir    string
	config serve.Config
	admin  *client.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	need.Swtpm(t)
	w := &world{t: t, dir: t.TempDir(), config: serve.Default()}
	w.config.StateDir, w.config.Interval = filepath.Join(w.dir, "server"), conf.Duration(time.Second)
	w.config.Listen = serve.Listen{API: freeAddress(t), Registrar: freeAddress(t)}
	background(t, func(ctx context.Context) error {
		return serve.Run(ctx, serve.Options{Config: w.config, Version: "test", Out: t.Output(), Log: t.Output()})
	})
	w.eventually("the server answers", func() bool {
		var err error
		if w.admin, err = client.FromFolder("https://"+w.config.Listen.API, filepath.Join(w.config.StateDir, "administrator")); err != nil {
			return false
		}
		_, err = w.admin.Server(t.Context())
		return err == nil
	})
	return w
}

// background runs something until the test ends; the returned function ends it before.
func background(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	for range 300 {
		if cond() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatalf("not within 30 s: %s", what)
}

// verdict waits for a verdict and returns the node.
func (w *world) verdict(id attest.AgentID, want attest.Verdict) api.Node {
	w.t.Helper()
	var node api.Node
	w.eventually(fmt.Sprintf("%s is %s", id, want), func() bool {
		var err error
		node, err = w.admin.Node(w.t.Context(), id)
		return err == nil && node.Verdict == want
	})
	return node
}

// host is a machine without a kernel: a TPM and a list.
type host struct {
	t        *testing.T
	emulator *swtpm.Emulator
	roots    []byte // the TPM's maker
	config   agent.Config
	now      func() time.Time // the agent's clock; nil is the system's
	stop     func()
}

// newHost manufactures a TPM, boots, and measures the entries that every boot of ours begins with.
func (w *world) newHost() *host {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "host") // t.TempDir is too long for a socket
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			w.t.Error(err)
		}
	})
	options := swtpm.Options{StateDir: filepath.Join(dir, "tpm"), CADir: filepath.Join(dir, "ca")}
	if err := swtpm.Manufacture(w.t.Context(), options); err != nil {
		w.t.Fatal(err)
	}
	h := &host{t: w.t, config: agent.DefaultConfig()}
	if h.roots, err = swtpm.Authorities(options.CADir); err != nil {
		w.t.Fatal(err)
	}
	if h.emulator, err = swtpm.Start(w.t.Context(), swtpm.Config{StateDir: options.StateDir}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := h.emulator.Stop(); err != nil {
			w.t.Error(err)
		}
	})
	h.config.Server, h.config.TPM, h.config.StateDir = w.config.Listen.API, "swtpm:"+h.emulator.Socket(), filepath.Join(dir, "agent")
	h.config.CA = filepath.Join(w.config.StateDir, "administrator", "ca.pem")
	h.config.Listen, h.config.Metrics, h.config.Heartbeat = freeAddress(w.t), "", conf.Duration(time.Second)
	h.config.IMAList, h.config.BootLog = filepath.Join(dir, "list"), ""
	h.boot()
	return h
}

// boot starts the list anew. PCR 0 to 9 are zeros: no firmware measured anything.
func (h *host) boot() {
	h.t.Helper()
	if err := os.WriteFile(h.config.IMAList, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.measure("boot_aggregate", attest.SHA256.Sum(make([]byte, 10*sha256.Size)))
	h.run("/etc/ima/ima-policy", "measure func=BPRM_CHECK\n")
	h.run("/usr/bin/sh", "a shell")
}

// run measures a file as the kernel does when it is executed.
func (h *host) run(path, content string) {
	h.t.Helper()
	h.measure(path, attest.SHA256.Sum([]byte(content)))
}

func (h *host) measure(path string, digest attest.Digest) {
	h.t.Helper()
	var template []byte
	for _, field := range []string{"sha256:\x00" + string(digest.Bytes()), path + "\x00"} {
		template = binary.LittleEndian.AppendUint32(template, uint32(len(field)))
		template = append(template, field...)
	}
	list, err := os.OpenFile(h.config.IMAList, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer list.Close()
	// The kernel too shows an entry before it extends the PCR.
	if _, err := fmt.Fprintf(list, "10 %s ima-ng %s %s\n", attest.SHA1.Sum(template).Hex(), digest, path); err != nil {
		h.t.Fatal(err)
	}
	h.extend(10, template)
}

// extend measures data into a PCR of every bank.
func (h *host) extend(pcr int, data []byte) {
	h.t.Helper()
	device, err := linuxudstpm.Open(h.emulator.Socket())
	if err != nil {
		h.t.Fatal(err)
	}
	defer device.Close()
	var digests []tpm2.TPMTHA
	for _, bank := range attest.Hashes() {
		digests = append(digests, tpm2.TPMTHA{HashAlg: tpm2.TPMAlgID(bank), Digest: bank.Sum(data).Bytes()})
	}
	extend := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}, Digests: tpm2.TPMLDigestValues{Digests: digests},
	}
	if _, err := extend.Execute(device); err != nil {
		h.t.Fatal(err)
	}
}

// start runs the agent; h.stop ends it.
func (h *host) start() {
	h.t.Helper()
	a, err := agent.New(h.config, agent.Environment{Version: "test", Now: h.now, Log: slog.New(slog.NewTextHandler(h.t.Output(), nil))})
	if err != nil {
		h.t.Fatal(err)
	}
	h.stop = background(h.t, a.Run)
}
