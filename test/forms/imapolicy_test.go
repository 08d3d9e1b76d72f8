package forms

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/test/world"
)

const (
	policyPath = "/etc/ima/ima-policy"
	listPath   = "/sys/kernel/security/ima/ascii_runtime_measurements"
	foreign    = "# somebody's own\nmeasure func=BPRM_CHECK mask=MAY_EXEC\n"
)

// absent says that there is no such file on vm1.
func (w *story) absent(path string) {
	w.Helper()
	if got := w.in("test -e " + path + " || echo none"); got != "none" {
		w.Errorf("there is a %s on vm1", path)
	}
}

// file says what the file of the policy holds on vm1.
func (w *story) file(want []byte) {
	w.Helper()
	got, err := w.Cluster.Node("vm1").Machine().ReadFile(w.Ctx, policyPath)
	w.Must(err)
	if !bytes.Equal(got, want) {
		w.Errorf("%s on vm1 is\n%s\nwant\n%s", policyPath, got, want)
	}
}

// tells waits until the condition ImaPolicy, which proves nothing yet, passes all of these words on.
func (w *story) tells(words ...string) {
	w.Helper()
	w.Eventually("vm1's report tells: "+strings.Join(words, "; "), world.Slow, func() string {
		r := w.Report("vm1")
		c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionImaPolicy)
		if c == nil || c.Status != metav1.ConditionUnknown || c.Reason != "ImaPolicyReported" {
			return world.Summary(r)
		}
		for _, word := range words {
			if !strings.Contains(c.Message, word) {
				return c.Message
			}
		}
		return ""
	})
}

// finds waits until the preflight of vm1's agent says this of a check.
func (w *story) finds(name string, status api.PreflightStatus, words string) {
	w.Helper()
	w.Eventually(fmt.Sprintf("vm1's preflight says of %s: %s", name, words), world.Slow, func() string {
		n, err := w.API.Node(w.Ctx, w.vm1)
		if err != nil {
			return err.Error()
		}
		if n.Heartbeat == nil {
			return "no heartbeat has come"
		}
		i := slices.IndexFunc(n.Heartbeat.Preflight, func(c api.PreflightCheck) bool { return c.Name == name })
		if i < 0 || n.Heartbeat.Preflight[i].Status != status || !strings.Contains(n.Heartbeat.Preflight[i].Detail, words) {
			return fmt.Sprintf("%+v", n.Heartbeat.Preflight)
		}
		return ""
	})
}

// policyInstalled: the file is ours to the byte, and everything says that this boot does not run it. The list has an entry of the file all the same, for the
// kernel's own policy measures what root reads: nobody takes it for a policy that was loaded.
func (w *story) policyInstalled() {
	w.Helper()
	w.file(ima.HostPolicy())
	w.tells("the next boot finds Assay's policy Host", "this boot does not run it", "installed by this agent", "built-in policy")
	if got := w.in("grep -c ' " + policyPath + "$' " + listPath + "; test -w /sys/kernel/security/ima/policy && echo open"); got != "1\nopen" {
		w.Errorf("entries of %s, and whether the kernel still takes a policy: %q", policyPath, got)
	}
	w.demand(w.withoutEarlyBoot("vm1-read"))
	w.Condition("vm1", v1alpha1.ConditionImaPolicy, metav1.ConditionFalse, string(attest.ImaPolicyNotApproved))
	w.Must(w.Patch("nodepolicy", policyName, map[string]any{"spec": map[string]any{"runtime": nil}}))
	w.Await("vm1", "Trusted", policyName)
	w.happened("Trusted -> Failed", "Failed -> Trusted")
}

// foreignPolicy: a file that is none of Assay's is somebody's own, told and left alone.
func (w *story) foreignPolicy() {
	w.Helper()
	w.Must(w.Cluster.Node("vm1").Machine().WriteFile(w.Ctx, policyPath, 0o644, []byte(foreign)))
	w.restart()
	w.tells("is no IMA policy of Assay's and is left as it is", "Remove the file", "built-in policy")
	w.file([]byte(foreign))
	w.in("rm " + policyPath)
	w.restart()
	w.tells("the next boot finds Assay's policy Host", "installed by this agent")
	w.file(ima.HostPolicy())
	w.happened()
}

// restart ends the agent of vm1; its DaemonSet makes another.
func (w *story) restart() {
	w.Helper()
	w.Kubectl("delete", "pod", "-n", world.Namespace, "-l", "app.kubernetes.io/name=assay-agent", "--field-selector=spec.nodeName=vm1")
}

// policyLoaded: the machine's init loads the file from its disk, as systemd does, and the evidence shows it.
func (w *story) policyLoaded() {
	w.Helper()
	w.Must(w.Cluster.Node("vm1").Reboot(w.Ctx))
	w.Tell("vm1 has rebooted")
	w.daemonSets("assay-agent-privileged")
	w.rounds()
	w.sameIdentity()
	w.finds("ima-policy", api.PreflightOK, "Assay's policy Host")
	w.finds("ima-policy-file", api.PreflightOK, "this boot runs it")
	for _, line := range w.told() { // an emulated machine may take so long to boot that it is Stale meanwhile
		if strings.HasSuffix(line, string(attest.Failed)) {
			w.Errorf("over the reboot: %s", line)
		}
	}
	w.demand(w.runtimeDocument("vm1-other", ima.ContainersPolicy()))
	w.Condition("vm1", v1alpha1.ConditionImaPolicy, metav1.ConditionFalse, string(attest.ImaPolicyNotApproved))
	other := func(f v1alpha1.Failure) bool { return f.ID != string(attest.ImaPolicyNotApproved) }
	if r := w.Await("vm1", "Failed", policyName); slices.ContainsFunc(r.Status.Failures, other) {
		w.Errorf("under a document that approves another policy: %s", world.Summary(r))
	}
	w.demand(w.runtimeDocument("vm1-runtime", ima.HostPolicy()))
	w.Await("vm1", "Trusted", policyName)
	w.Condition("vm1", v1alpha1.ConditionImaPolicy, metav1.ConditionTrue, "ImaPolicyApproved")
	w.happened("Trusted -> Failed", "Failed -> Trusted")
}

// runtimeDocument approves what vm1's disk held at first and what it has measured in this boot, loaded by one policy.
func (w *story) runtimeDocument(name string, policy []byte) (_, digest string) {
	w.Helper()
	m := w.Cluster.Node("vm1").Machine()
	list, err := m.ReadFile(w.Ctx, listPath)
	w.Must(err)
	for file, text := range map[string][]byte{"list": list, "ima.policy": policy} {
		w.Must(os.WriteFile(filepath.Join(w.Home, file), text, 0o600))
	}
	_, err = w.Run("assay", "policy", "create", "runtime", name, "--tree", m.Tree(), "--list", filepath.Join(w.Home, "list"),
		"--ima-policy", filepath.Join(w.Home, "ima.policy"), "--out", w.document(name))
	w.Must(err)
	return name, w.AddDocument(w.document(name))
}

func (w *story) document(name string) string { return filepath.Join(w.Home, name+".yaml") }

// withoutEarlyBoot is a Runtime document of what vm1 has measured, by somebody who knows that nothing runs there before its policy is loaded.
func (w *story) withoutEarlyBoot(name string) (_, digest string) {
	w.Helper()
	w.runtimeDocument(name+"-with", ima.HostPolicy())
	text, err := os.ReadFile(w.document(name + "-with"))
	w.Must(err)
	var document map[string]any
	w.Must(yaml.Unmarshal(text, &document))
	delete(document["spec"].(map[string]any), "earlyBoot")
	document["metadata"] = map[string]string{"name": name}
	text, err = yaml.Marshal(document)
	w.Must(err)
	w.Must(os.WriteFile(w.document(name), text, 0o600))
	return name, w.AddDocument(w.document(name))
}

// demand adds a Runtime document to vm1's NodePolicy.
func (w *story) demand(name, digest string) {
	w.Helper()
	w.Must(w.Patch("nodepolicy", policyName, map[string]any{"spec": map[string]any{"runtime": map[string]string{"name": name, "digest": digest}}}))
}
