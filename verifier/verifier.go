package verifier

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
	"weak"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifier/machine"
)

// Limits and defaults.
const (
	defaultInterval    = 30 * time.Second
	minInterval        = time.Second
	maxInterval        = 24 * time.Hour // a verdict stands for five intervals without evidence: no setting makes that years
	defaultConcurrency = 64
	flushAfter         = 60 * time.Second // C12: accepted positions and quotes are written at most this often
	flushBytes         = 1 << 20
	pageOfNodes        = 500
)

// Collector fetches evidence from an agent. An error that wraps ErrMalformed says that the agent answered and the answer is no
// evidence; every other error says that there was no answer.
type Collector interface {
	Collect(ctx context.Context, to Enrolment, r machine.Request) (Collected, error)
}

// Collected is an agent's answer as it came.
type Collected struct {
	machine.Answer
	// Release gives back what the answer holds, such as a place for a big one; nil when it holds nothing. It is called when the answer is
	// judged, or when nobody will judge it.
	Release func()
}

// ErrMalformed marks an answer that cannot be parsed: the round is refused, not silent.
var ErrMalformed = errors.New("malformed answer")

// Config is what a Verifier needs. Store, Evidence, Policies, Reactions and Collector must be set.
type Config struct {
	Store     Store
	Evidence  EvidenceStore
	Policies  PolicyStore
	Collector Collector
	// Registrar is asked again about nodes that do not answer as they were enrolled; nil never is.
	Registrar Registrar
	// Roots and Keys are what endorses TPMs now: an enrolled node fails when the word that it was enrolled by is taken back. With either nil,
	// an endorsement holds for good.
	Roots RootStore
	Keys  KeyStore
	// Reimage says what becomes of a new AK of a node's EK where the node has no setting of its own; empty means Approval.
	Reimage api.Reimage
	// Reactions must be set too. ContainerIMAPolicies are the IMA policies that leave out containers: they count as approved only where a
	// node's assignment says so, whatever documents list.
	Reactions            ReactionStore
	ContainerIMAPolicies []attest.Digest
	// Retention says what is deleted when; the zero value deletes nothing.
	Retention Retention
	// Interval between two rounds of a node that has no interval of its own; 0 means 30 s, 1 s is the least.
	Interval time.Duration
	// Concurrency bounds the rounds under way at once; 0 means 64.
	Concurrency int
	// Now and Rand default to the machine's clock and random source.
	Now  func() time.Time
	Rand io.Reader
	Log  *slog.Logger
	// Metrics is where the verifier registers its metrics; nil for none.
	Metrics prometheus.Registerer
}

// Verifier owns the machines of all nodes: each has one goroutine, which alone steps it.
type Verifier struct {
	cfg     Config
	metrics *metrics
	rounds  chan struct{} // holds a token for each round under way
	hub     *hub

	endorsers endorsers

	mu       sync.Mutex
	running  bool
	loaded   bool // every stored node has its goroutine
	group    *errgroup.Group
	ctx      context.Context
	workers  map[attest.AgentID]*worker
	compiled map[attest.PolicyRef]weak.Pointer[policy.Document] // documents in use, compiled once and shared
}

// New checks the configuration.
func New(cfg Config) (*Verifier, error) {
	if cfg.Store == nil || cfg.Evidence == nil || cfg.Policies == nil || cfg.Reactions == nil || cfg.Collector == nil {
		return nil, errors.New("verifier: store, evidence, policies, reactions and collector must be set")
	}
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	if err := checkInterval(cfg.Interval); err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	switch cfg.Reimage {
	case "":
		cfg.Reimage = api.ReimageApproval
	case api.ReimageApproval, api.ReimageAllow:
	default:
		return nil, fmt.Errorf("verifier: reimage %q is neither %s nor %s", cfg.Reimage, api.ReimageAllow, api.ReimageApproval)
	}
	if err := cfg.Retention.check(); err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	if cfg.Concurrency < 0 {
		return nil, fmt.Errorf("verifier: concurrency %d is below 1", cfg.Concurrency)
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = defaultConcurrency
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Verifier{
		cfg: cfg, metrics: newMetrics(cfg.Metrics), rounds: make(chan struct{}, cfg.Concurrency), hub: newHub(),
		endorsers: endorsers{roots: cfg.Roots, keys: cfg.Keys},
		workers:   make(map[attest.AgentID]*worker), compiled: make(map[attest.PolicyRef]weak.Pointer[policy.Document]),
	}, nil
}

// Run loads all nodes and runs their rounds until ctx ends; then it writes what was kept and returns. It runs once.
func (v *Verifier) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	v.mu.Lock()
	v.running, v.group, v.ctx = true, group, ctx
	v.mu.Unlock()
	group.Go(func() error { return v.load(ctx) })
	group.Go(func() error { return v.watchSilence(ctx) })
	group.Go(func() error { return v.cleanUp(ctx) })
	err := group.Wait()
	v.hub.close()
	return err
}

// load starts the workers of all stored nodes.
func (v *Verifier) load(ctx context.Context) error {
	for after := attest.AgentID(""); ; {
		nodes, err := v.cfg.Store.Nodes(ctx, after, pageOfNodes)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("load nodes: %w", err)
		}
		for _, n := range nodes {
			after = n.ID
			if err := v.start(ctx, n); ctx.Err() != nil {
				return nil
			} else if err != nil {
				return err
			}
		}
		if len(nodes) < pageOfNodes {
			v.mu.Lock()
			v.loaded = true
			v.mu.Unlock()
			return nil
		}
	}
}

// start gives a node its goroutine. The node must not have one. A node that cannot be judged has one too: it tries again, and turns
// Stale meanwhile.
func (v *Verifier) start(ctx context.Context, n Node) error {
	w := &worker{v: v, node: n, inbox: make(chan command), ended: make(chan struct{})}
	if w.who, w.blind = v.subject(ctx, n); w.blind != nil {
		v.cfg.Log.Error("the node cannot be judged", "node", n.ID, "err", w.blind)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.running || v.ctx.Err() != nil {
		return ErrNotRunning
	}
	if v.workers[n.ID] != nil {
		return fmt.Errorf("node %s: %w", n.ID, ErrExists)
	}
	v.workers[n.ID] = w
	w.publish()
	v.group.Go(func() error {
		defer v.forget(w)
		return w.run(v.ctx)
	})
	return nil
}

// ErrNotRunning says that rounds are not run yet, or no longer.
var ErrNotRunning = errors.New("the verifier is not running")

// forget takes a worker out; doing it again does nothing.
func (v *Verifier) forget(w *worker) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.workers[w.node.ID] == w {
		delete(v.workers, w.node.ID)
		close(w.ended)
	}
}

// announce tells a stored transition to log, metrics and those who watch.
func (v *Verifier) announce(t machine.Transition) {
	v.cfg.Log.Info("verdict", "node", t.Node, "from", t.From, "to", t.To, "cause", t.Cause, "failures", len(t.Failures))
	v.metrics.transition(t)
	v.hub.send(t)
}

func (v *Verifier) worker(id attest.AgentID) (*worker, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if w := v.workers[id]; w != nil {
		return w, nil
	}
	return nil, v.absent(id)
}

// absent says why a node has no goroutine; v.mu is held. Until all stored nodes are loaded and once the process ends, that does not mean that
// there is no such node: who is told so forgets it.
func (v *Verifier) absent(id attest.AgentID) error {
	if !v.loaded || v.ctx.Err() != nil {
		return fmt.Errorf("node %s: %w", id, ErrNotRunning)
	}
	return fmt.Errorf("node %s: %w", id, ErrNotFound)
}

// subject resolves what the machine needs: the AK, checked again, and the compiled documents. With an error, Interval alone is set.
func (v *Verifier) subject(ctx context.Context, n Node) (machine.Subject, error) {
	blind := machine.Subject{Interval: v.Interval(n)}
	ak, failures, err := endorsement.ParseAK(n.Enrolment.AK)
	if err != nil {
		return blind, fmt.Errorf("attestation key: %w", err)
	}
	if len(failures) > 0 {
		return blind, fmt.Errorf("attestation key: %s: %s", failures[0].ID, failures[0].Detail)
	}
	who := machine.Subject{AK: ak, Interval: v.Interval(n), Terms: v.terms(n)}
	if ek, err := endorsement.ParseEK(n.Enrolment.EK); err == nil {
		who.Child = ek.QualifiedChild(ak)
	}
	for _, ref := range n.Policies {
		doc, err := v.document(ctx, ref)
		if err != nil {
			return blind, err
		}
		who.Policies = append(who.Policies, doc)
	}
	return who, nil
}

// Interval is the pause between two rounds of a node; that of the zero Node is the server's.
func (v *Verifier) Interval(n Node) time.Duration {
	if n.Interval > 0 {
		return n.Interval
	}
	return v.cfg.Interval
}

// document returns a compiled document. All nodes that have it share one, which goes when the last of them lets go.
func (v *Verifier) document(ctx context.Context, ref attest.PolicyRef) (*policy.Document, error) {
	v.mu.Lock()
	doc := v.compiled[ref].Value()
	v.mu.Unlock()
	if doc != nil {
		return doc, nil
	}
	stored, err := v.cfg.Policies.Policy(ctx, ref.Digest.String())
	if err != nil {
		return nil, fmt.Errorf("policy %q (%s): %w", ref.Name, ref.Digest, err)
	}
	if doc, err = policy.Load(ref, stored.Bytes); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for old, pointer := range v.compiled {
		if pointer.Value() == nil {
			delete(v.compiled, old)
		}
	}
	if first := v.compiled[ref].Value(); first != nil {
		return first, nil // somebody else was faster
	}
	v.compiled[ref] = weak.Make(doc)
	return doc, nil
}

const (
	nonceLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	nonceLength  = 20
)

// nonce returns 20 letters and digits (reference 2.2), 119 bits. Bytes beyond the last whole multiple of 62 are drawn again, so each letter is equally likely.
func (v *Verifier) nonce() (string, error) {
	text := make([]byte, 0, nonceLength)
	var b [1]byte
	for len(text) < nonceLength {
		if _, err := io.ReadFull(v.cfg.Rand, b[:]); err != nil {
			return "", fmt.Errorf("draw nonce: %w", err)
		}
		if int(b[0]) < 256/len(nonceLetters)*len(nonceLetters) {
			text = append(text, nonceLetters[int(b[0])%len(nonceLetters)])
		}
	}
	return string(text), nil
}
