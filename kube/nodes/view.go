package nodes

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// View is what the operator knows of the server: all machines and open reactions, read again every while and after each transition.
type View struct {
	connect  func() (Server, error)
	interval time.Duration
	log      *slog.Logger
	// changed is told the names of Nodes whose machine or reaction changed.
	changed func(names []string)

	reading sync.Mutex // one reading at a time: an older one never replaces a newer one

	mu        sync.Mutex
	connected bool
	patient   bool // the operator has just started
	failure   error
	machines  map[attest.AgentID]api.Node
	byName    map[string]attest.AgentID
	reactions map[attest.AgentID]api.Reaction // open ones: one for each machine at the most
	suspended api.Suspension
	documents map[string]api.Policy // by digest
}

// ViewConfig is what a View needs; all members but Log must be set.
type ViewConfig struct {
	// Connect gives the server, or ErrNotConnected.
	Connect func() (Server, error)
	// Interval between two full readings.
	Interval time.Duration
	// Changed is called with the names of Nodes to be looked at again. It must not block.
	Changed func(names []string)
	Log     *slog.Logger
}

// NewView returns an empty view.
func NewView(cfg ViewConfig) *View {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &View{
		connect: cfg.Connect, interval: cfg.Interval, changed: cfg.Changed, log: cfg.Log, machines: map[attest.AgentID]api.Node{},
		byName: map[string]attest.AgentID{}, reactions: map[attest.AgentID]api.Reaction{}, documents: map[string]api.Policy{}, patient: true,
	}
}

// Refresh reads everything. When the server cannot be read, the view is disconnected and says nothing new.
func (v *View) Refresh(ctx context.Context) error {
	v.reading.Lock()
	defer v.reading.Unlock()
	next, err := v.read(ctx)
	v.mu.Lock()
	was := v.connected
	v.connected, v.failure = err == nil, err
	var names []string
	if err == nil {
		names = v.take(next)
	}
	if was != v.connected {
		for name := range v.byName {
			names = append(names, name)
		}
		names = append(names, AllNodes)
	}
	v.mu.Unlock()
	v.changed(names)
	return err
}

// AllNodes in a list of names stands for every Node.
const AllNodes = "*"

type reading struct {
	nodes     []api.Node
	reactions []api.Reaction
	documents []api.Policy
	suspended api.Suspension
}

func (v *View) read(ctx context.Context) (r reading, err error) {
	server, err := v.connect()
	if err != nil {
		return r, err
	}
	if r.nodes, err = server.Nodes(ctx); err != nil {
		return r, err
	}
	if r.documents, err = server.Policies(ctx); err != nil {
		return r, err
	}
	if r.suspended, err = server.Suspension(ctx); err != nil {
		return r, err
	}
	r.reactions, err = server.Reactions(ctx, api.ReactionStateOpen)
	return r, err
}

// take replaces everything and returns the names of Nodes about which something changed.
func (v *View) take(r reading) []string {
	var names []string
	if v.suspended.Suspended != r.suspended.Suspended {
		names = append(names, AllNodes)
	}
	v.suspended = r.suspended
	seen := make(map[attest.AgentID]bool, len(r.nodes))
	for _, n := range r.nodes {
		seen[n.ID] = true
		names = append(names, v.takeMachine(n)...)
	}
	for id, old := range v.machines {
		if !seen[id] {
			delete(v.machines, id)
			if old.KubernetesNode != nil && v.byName[old.KubernetesNode.Name] == id {
				delete(v.byName, old.KubernetesNode.Name)
				names = append(names, old.KubernetesNode.Name)
			}
		}
	}
	v.documents = make(map[string]api.Policy, len(r.documents))
	for _, p := range r.documents {
		v.documents[p.Digest.String()] = p
	}
	return append(names, v.takeReactions(r.reactions)...)
}

func (v *View) takeMachine(n api.Node) []string {
	old, known := v.machines[n.ID]
	v.machines[n.ID] = n
	var names []string
	if known && old.KubernetesNode != nil && (n.KubernetesNode == nil || *n.KubernetesNode != *old.KubernetesNode) {
		if v.byName[old.KubernetesNode.Name] == n.ID { // otherwise another machine has taken the place already
			delete(v.byName, old.KubernetesNode.Name)
		}
		names = append(names, old.KubernetesNode.Name)
	}
	if n.KubernetesNode == nil {
		return names
	}
	v.byName[n.KubernetesNode.Name] = n.ID
	if !known || !reflect.DeepEqual(relevant(old), relevant(n)) {
		names = append(names, n.KubernetesNode.Name)
	}
	return names
}

// relevant leaves out what changes with every round and decides nothing.
func relevant(n api.Node) api.Node {
	n.LastTried, n.Accepted, n.Refused, n.Position, n.Pending, n.Trouble = time.Time{}, 0, 0, 0, 0, nil
	if !n.LastAccepted.IsZero() {
		n.LastAccepted = n.Enrolled
	}
	if n.Heartbeat != nil {
		n.Heartbeat = &api.AgentReport{Preflight: n.Heartbeat.Preflight}
	}
	return n
}

func (v *View) takeReactions(open []api.Reaction) []string {
	next := make(map[attest.AgentID]api.Reaction, len(open))
	for _, r := range open {
		next[r.Node] = r
	}
	var names []string
	touch := func(id attest.AgentID) {
		if n, ok := v.machines[id]; ok && n.KubernetesNode != nil {
			names = append(names, n.KubernetesNode.Name)
		} else if r, ok := next[id]; ok && r.Identity != nil {
			names = append(names, r.Identity.Name)
		}
	}
	for id, r := range next {
		// An unfinished one is offered again with each reading, until it is done.
		if old, ok := v.reactions[id]; !ok || old.ID != r.ID || old.State != r.State || !slices.Contains([]api.ReactionState{api.ReactionApplied, api.ReactionWaiting}, r.State) {
			touch(id)
		}
	}
	for id := range v.reactions {
		if _, ok := next[id]; !ok {
			touch(id)
		}
	}
	v.reactions = next
	return names
}

// put stores what the server answered to a change of ours.
func (v *View) put(n api.Node) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.takeMachine(n)
}

// sight is what the view says about one Node.
type sight struct {
	connected bool
	suspended bool
	machine   *api.Node
	reaction  *api.Reaction
}

func (v *View) of(nodeName string) sight {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := sight{connected: v.connected, suspended: v.suspended.Suspended}
	id, ok := v.byName[nodeName]
	if !ok {
		return s
	}
	if n, ok := v.machines[id]; ok {
		s.machine = &n
	}
	if r, ok := v.reactions[id]; ok {
		s.reaction = &r
	}
	return s
}

// nodeOf returns the name of the Node that an agent is bound to.
func (v *View) nodeOf(id attest.AgentID) (string, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, ok := v.machines[id]
	if !ok || n.KubernetesNode == nil {
		return "", false
	}
	return n.KubernetesNode.Name, true
}

// document finds a stored policy by its digest.
func (v *View) document(digest string) (api.Policy, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, ok := v.documents[digest]
	return p, ok
}

// owned counts the open reactions that take an owner's budget.
func (v *View) owned(owner string) (reacting int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range v.reactions {
		if r.Owner == owner && r.State != api.ReactionWaiting {
			reacting++
		}
	}
	return reacting
}

// Connected reports whether the last reading succeeded, and the error if it did not.
func (v *View) Connected() (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.connected, v.failure
}

// Suspended returns the server's switch.
func (v *View) Suspended() api.Suspension {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.suspended
}
