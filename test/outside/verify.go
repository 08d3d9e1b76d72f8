package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

const verifyTime = 15 * time.Minute

// policyName names the NodePolicy and its document.
const policyName = "outside"

// verify checks what run left running. It can be repeated.
func verify(ctx context.Context, p *place) (err error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	w, err := findWorld(ctx, p)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.autopsy(context.WithoutCancel(ctx))
		}
	}()
	right := w.addresses()
	swapped := map[string]string{"node1": right["node2"], "node2": right["node1"]}
	// Whatever happened, the next verify begins with the right names.
	defer func() { err = errors.Join(err, w.machine.setHosts(right)) }()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"demand what the TPMs show now", w.assign},
		{"Trusted, by name", w.bothTrusted},
		{"reached by name", w.reachedByName},
		{"names swapped", func(ctx context.Context) error { return w.mistaken(ctx, swapped) }},
		{"names put right", func(ctx context.Context) error {
			if err := w.machine.setHosts(right); err != nil {
				return err
			}
			return w.bothTrusted(ctx)
		}},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	w.tell("verified: Trusted, failed by key under swapped names, Trusted again")
	return nil
}

// assign has a NodePolicy demand of both nodes the PCR values that they show now, from TPMs of the emulators' maker.
func (w *world) assign(ctx context.Context) error {
	create := []string{"policy", "create", "pcr", policyName}
	for _, name := range nodeNames() {
		r, err := w.report(ctx, name)
		if err != nil {
			return err
		}
		create = append(create, "--node", r.Status.Agent)
	}
	document, err := w.assay(ctx, nil, create...)
	if err != nil {
		return err
	}
	file := filepath.Join(w.home(), "policy.yaml")
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		return fmt.Errorf("policy document: %w", err)
	}
	var stored api.Policy
	if _, err := w.assay(ctx, &stored, "policy", "add", file); err != nil {
		return err
	}
	maker, err := w.emulatorsMaker(ctx)
	if err != nil {
		return err
	}
	err = w.cluster.Apply(ctx, fmt.Sprintf(`
apiVersion: integrity.assay.dev/v1alpha1
kind: NodePolicy
metadata: {name: %s}
spec:
  selector: {names: [%s]}
  pcr: {name: %[1]s, digest: "%[3]s"}
  endorsedBy: ["%[4]s"]
`, policyName, strings.Join(nodeNames(), ", "), stored.Digest, maker))
	if err == nil {
		w.tell("NodePolicy %s demands the values of PCR 0 to 7, of TPMs endorsed by the emulators' CA", policyName)
	}
	return err
}

// emulatorsMaker is the root that the operator had the server accept for emulated TPMs.
func (w *world) emulatorsMaker(ctx context.Context) (attest.Digest, error) {
	var known struct {
		Certificates []api.Root `json:"certificates"`
	}
	if _, err := w.assay(ctx, &known, "endorsement", "list"); err != nil {
		return attest.Digest{}, err
	}
	for _, r := range known.Certificates {
		if r.Emulated {
			return r.Fingerprint, nil
		}
	}
	return attest.Digest{}, errors.New("the server knows no root of emulated TPMs; the operator should have added it")
}

func (w *world) bothTrusted(ctx context.Context) error {
	return w.await(ctx, "both nodes are Trusted under "+policyName, func(r v1alpha1.NodeReport) string {
		if _, ok := trusted(r); !ok || r.Status.Verdict != "Trusted" || r.Status.Policy != policyName {
			return "not yet Trusted"
		}
		return ""
	})
}

// reachedByName: two agents with two TPMs, and what the server dials is the host name of each.
func (w *world) reachedByName(ctx context.Context) error {
	nodes, err := w.nodes(ctx)
	if err != nil {
		return err
	}
	ids := map[attest.AgentID]bool{}
	for _, name := range nodeNames() {
		n := nodes[name]
		if n.Address != name {
			return fmt.Errorf("%s is asked at %q, not by its name", name, n.Address)
		}
		ids[n.ID] = true
		w.tell("%s is agent %s, asked at %s:%d", name, n.ID, n.Address, n.Port)
	}
	if len(ids) != len(nodeNames()) {
		return fmt.Errorf("%d TPMs, want %d", len(ids), len(nodeNames()))
	}
	return nil
}

// mistaken gives the server the names the other way round. It keeps connections that it has verified, so it is started anew to have it ask for
// names. Each node is then answered for by the other one, with a key that is not the one it registered.
func (w *world) mistaken(ctx context.Context, hosts map[string]string) error {
	if err := w.machine.setHosts(hosts); err != nil {
		return err
	}
	if err := w.restartServer(ctx, "the server runs with the two names swapped"); err != nil {
		return err
	}
	err := w.await(ctx, "both nodes failed by key", func(r v1alpha1.NodeReport) string {
		if reason, ok := trusted(r); ok || r.Status.Verdict != "Failed" || reason != string(attest.AgentKeyMismatch) {
			return "not yet Failed by " + string(attest.AgentKeyMismatch)
		}
		if f := r.Status.Failures; len(f) != 1 || f[0].ID != string(attest.AgentKeyMismatch) || f[0].Detail == "" {
			return fmt.Sprintf("the failures do not say so: %v", f)
		}
		return ""
	})
	if err != nil {
		return err
	}
	for _, name := range nodeNames() {
		r, err := w.report(ctx, name)
		if err != nil {
			return err
		}
		for _, f := range r.Status.Failures {
			w.tell("%s: %s: %s", name, f.ID, f.Detail)
		}
	}
	return nil
}
