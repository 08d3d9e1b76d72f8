package lab

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay/stage"
	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/policy"
)

const (
	policyFile = "/etc/ima/ima-policy"
	kernelDoor = "/sys/kernel/security/ima/policy"
)

// TestLoadIMAPolicy has an agent load the IMA policy into the running kernel, on a Debian on which nothing has loaded one: the kernel records it and
// closes its door, and still it is no clean boot. After a reboot systemd loads the file that the agent left, and that is one.
func TestLoadIMAPolicy(t *testing.T) {
	s := debian(t)
	config, err := s.AgentConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, checkout+"/agent.yaml", append(config, "user: nobody\nimaPolicy: {install: Host, load: true}\n"...))
	if got := in(t, s, "test -w "+kernelDoor+" && echo open; ls /etc/ima 2>/dev/null || true"); got != "open" {
		t.Fatalf("before the agent the door and the file are %q", got)
	}
	said := runAgent(t, s, "agent.yaml")
	for _, done := range []string{"installed by this agent", "loaded by this agent in this boot"} {
		if !strings.Contains(said, done) {
			t.Errorf("the agent does not say %q:\n%s", done, said)
		}
	}
	if got := in(t, s, "sha256sum "+policyFile); !strings.HasPrefix(got, fmt.Sprintf("%x ", sha256.Sum256(ima.HostPolicy()))) {
		t.Errorf("%s: %s", policyFile, got)
	}
	if got := in(t, s, "grep -c ' sha256:'$(sha256sum "+policyFile+" | cut -c 1-64)' "+policyFile+"$' /sys/kernel/security/ima/ascii_runtime_measurements"); got != "1" {
		t.Errorf("the list has %s entries of the policy", got)
	}
	doorIsClosed(t, s)

	if _, err := s.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	late, err := policy.BuildRuntime(t.Context(), policy.BuildOptions{
		Name: "nothing-but-the-order", Excludes: []string{"/.*"}, EarlyBoot: earlyBoot(t), IMAPolicies: [][]byte{ima.HostPolicy()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.AddPolicy(t.Context(), late.Bytes(), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddTreePolicy(t.Context(), policyName, earlyBoot(t)...); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.Enrol(t.Context(), api.EnrolRequest{ID: s.Agent, Policies: []string{late.Name()}}); err != nil {
		t.Fatal(err)
	}
	node := await(t, s, attest.Failed)
	if !slices.ContainsFunc(node.Failures, func(f attest.Failure) bool { return f.ID == attest.ImaPolicyNotApproved }) {
		t.Errorf("what ran before the policy: %s", stage.Reasons(node))
	}
	if _, err := s.Client.UpdateNode(t.Context(), s.Agent, api.NodeUpdate{Policies: &[]string{policyName}}); err != nil {
		t.Fatal(err)
	}

	if err := s.Machine.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	said = runAgent(t, s, "agent.yaml")
	if strings.Contains(said, "IMA policy") {
		t.Errorf("there was nothing to do, and the agent says:\n%s", said)
	}
	await(t, s, attest.Trusted)

	in(t, s, "kill $(cat /run/agent.pid); while test -e /proc/$(cat /run/agent.pid); do sleep 0.1; done")
	put(t, s, checkout+"/late.yaml", append(config, "user: nobody\nimaPolicy: {install: Containers, load: true, path: /etc/ima/late-policy}\n"...))
	if said = runAgent(t, s, "late.yaml"); !strings.Contains(said, "this kernel takes no policy in this boot any more") {
		t.Errorf("the kernel has a policy, and the agent says:\n%s", said)
	}
	if got := in(t, s, "cd "+checkout+"; build/assay-agent preflight --config late.yaml || true"); !strings.Contains(got, "ima_policy=tcb ima_hash=sha256 ima_template=ima-ng") {
		t.Errorf("the preflight does not say how to boot:\n%s", got)
	}
	doorIsClosed(t, s)
}

// runAgent starts the machine's agent and returns its log up to where it has its rights dropped.
func runAgent(t *testing.T, s *stage.Stage, config string) string {
	t.Helper()
	in(t, s, "cd "+checkout+"; exec >/run/agent.log 2>&1 </dev/null; build/assay-agent --config "+config+" &\necho $! >/run/agent.pid")
	var said string
	err := stage.Eventually(t.Context(), time.Minute, "the agent has dropped its rights", func(ctx context.Context) (bool, error) {
		var err error
		said, err = s.Run(ctx, "cat", "/run/agent.log")
		return strings.Contains(said, "rights dropped"), err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	return said
}

// doorIsClosed: a kernel without CONFIG_IMA_WRITE_POLICY takes neither rules nor a file any more, from root either.
func doorIsClosed(t *testing.T, s *stage.Stage) {
	t.Helper()
	for _, text := range []string{"dont_measure func=BPRM_CHECK", policyFile} {
		if got := in(t, s, fmt.Sprintf("echo -n %q 2>/dev/null >%s && echo taken || echo refused", text, kernelDoor)); got != "refused" {
			t.Errorf("the kernel has %s %q", got, text)
		}
	}
}
