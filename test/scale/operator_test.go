package scale

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// operator is the operator's own program in a process of its own.
type operator struct {
	*process
	t       testing.TB
	metrics string // URL
}

// buildOperator compiles the program that is measured.
func buildOperator(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "assay-operator")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../../cmd/assay-operator").CombinedOutput(); err != nil {
		t.Fatalf("build the operator: %v\n%s", err, out)
	}
	return path
}

func (k *kubernetes) operator(program string) *operator {
	k.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		k.t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	cmd := exec.Command(program)
	cmd.Env = []string{"KUBECONFIG=" + k.kubeconfig, "ASSAY_NAMESPACE=" + namespace, "ASSAY_METRICS=" + address, "ASSAY_LOGLEVEL=warn"}
	return &operator{process: start(k.t, cmd), t: k.t, metrics: "http://" + address + "/metrics"}
}

// counts are what the operator has done and used since its start.
type counts struct {
	reports, policies float64 // status writes
	reconciles        float64 // of nodes
	waiting           float64 // nodes in the queue
	requests, leases  float64 // to the API server; leases, those that renew the leader's lock, are not among the requests
	connected         bool
	applied           float64 // reactions
	cpu               time.Duration
	rss, peak         int64 // bytes
}

func (c counts) since(before counts) counts {
	return counts{
		reports: c.reports - before.reports, policies: c.policies - before.policies, reconciles: c.reconciles - before.reconciles,
		requests: c.requests - before.requests, leases: c.leases - before.leases, applied: c.applied - before.applied, cpu: c.cpu - before.cpu,
		waiting: c.waiting, connected: c.connected, rss: c.rss, peak: c.peak,
	}
}

func (c counts) String() string {
	return fmt.Sprintf("%.0f report writes, %.0f policy writes, %.0f reconciles, %.0f requests, %.2f CPU s, %d MiB now, %d MiB at most",
		c.reports, c.policies, c.reconciles, c.requests, c.cpu.Seconds(), c.rss>>20, c.peak>>20)
}

// counts reads the metrics and /proc. ok is false while the program does not serve its metrics yet.
func (o *operator) counts() (c counts, ok bool) {
	o.t.Helper()
	answer, err := http.Get(o.metrics)
	if err != nil {
		return c, false
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return c, false
	}
	m := parseMetrics(o.t, string(text))
	c = counts{
		reports: m.sum("assay_operator_status_writes_total", `kind="NodeReport"`), policies: m.sum("assay_operator_status_writes_total", `kind="NodePolicy"`),
		reconciles: m.sum("controller_runtime_reconcile_total", `controller="node"`), waiting: m.sum("workqueue_depth", `name="node"`),
		requests: m.sum("rest_client_requests_total", ""), leases: m.sum("rest_client_requests_total", `method="PUT"`),
		connected: m.sum("assay_operator_server_connected", "") == 1, applied: m.sum("assay_operator_reactions_total", `result="applied"`),
	}
	c.requests -= c.leases
	o.use(&c)
	return c, true
}

// now is counts of a program that runs.
func (o *operator) now() counts {
	o.t.Helper()
	c, ok := o.counts()
	if !ok {
		o.t.Fatal("the operator does not serve its metrics")
	}
	return c
}

// metrics are samples in Prometheus' text format.
type metrics []sample

type sample struct {
	name, labels string
	value        float64
}

func parseMetrics(t testing.TB, text string) (m metrics) {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if i < 0 {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		name, labels, _ := strings.Cut(line[:i], "{")
		m = append(m, sample{name, labels, value})
	}
	return m
}

// sum adds up the samples of a name that have a label.
func (m metrics) sum(name, label string) (total float64) {
	for _, s := range m {
		if s.name == name && strings.Contains(s.labels, label) {
			total += s.value
		}
	}
	return total
}

// ticks are the kernel's clock ticks in a second in /proc, whatever its timer is (USER_HZ).
const ticks = 100

// use reads processor time and memory of the process (proc(5)).
func (o *operator) use(c *counts) {
	o.t.Helper()
	folder := filepath.Join("/proc", strconv.Itoa(o.Process.Pid))
	stat, err := os.ReadFile(filepath.Join(folder, "stat"))
	if err != nil {
		o.t.Fatal(err)
	}
	words := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, word := range words[11:13] { // utime, stime
		n, err := strconv.Atoi(word)
		if err != nil {
			o.t.Fatalf("stat: %v", err)
		}
		c.cpu += time.Duration(n) * time.Second / ticks
	}
	status, err := os.Open(filepath.Join(folder, "status"))
	if err != nil {
		o.t.Fatal(err)
	}
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		for key, to := range map[string]*int64{"VmRSS:": &c.rss, "VmHWM:": &c.peak} {
			if text, ok := strings.CutPrefix(lines.Text(), key); ok {
				kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(text, "kB")), 10, 64)
				if err != nil {
					o.t.Fatalf("status: %v", err)
				}
				*to = kilobytes << 10
			}
		}
	}
}
