package e2e

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/test/world"
)

// TestTrouble is an installation that goes wrong in every way that a person has to put right: each time the platform says what to do, that is done, and
// all is well again.
func TestTrouble(t *testing.T) {
	w := &story{World: world.New(t)}
	values := fmt.Sprintf("images: {registry: localhost, tag: %q, pullPolicy: Never}\nserver: {service: {type: NodePort, nodePorts: {api: %d}}, storage: {className: %s}, hosts: [%q]}\n",
		w.Tag, world.APIPort, world.VolumeClass, w.Cluster.Node("node1").Address())
	const missing = "no-such-tag"
	w.Story(t, world.Steps{
		{"no volume", func() {
			w.Must(w.Helm("install", values))
			w.trouble(v1alpha1.ConditionServer, "VolumeNotBound", "PersistentVolumeClaim data-assay-server-0 (StorageClass lab)", "make a PersistentVolume that fits")
			w.Volume()
			w.well()
		}},
		{"no image", func() {
			w.Must(w.Helm("upgrade", values, "--set", "images.server=localhost/assay:"+missing))
			w.trouble(v1alpha1.ConditionServer, "ImageUnavailable", "image localhost/assay:"+missing, "see images in the values")
			w.Must(w.Helm("upgrade", values))
			w.well()
		}},
		{"a database that is none", func() {
			const header = "dd conv=notrunc status=none bs=16 count=1 of=/var/lib/assay-data/assay.db"
			w.stopServer()
			_, err := w.Cluster.Node("node1").Output(w.Ctx, "sh", "-c", "echo this is no database | "+header)
			w.Must(err)
			w.Kubectl("-n", world.Namespace, "scale", "deployment/assay-operator", "--replicas=1")
			w.trouble(v1alpha1.ConditionServer, "DatabaseUnavailable", "open database /var/lib/assay/assay.db", "not a database", "PersistentVolumeClaim data-assay-server-0", "from a backup")
			_, err = w.Cluster.Node("node1").Output(w.Ctx, "sh", "-c", `printf 'SQLite format 3\000' | `+header)
			w.Must(err)
			w.Kubectl("-n", world.Namespace, "delete", "pod", "assay-server-0", "--wait=false")
			w.well()
		}},
		{"no rights in the namespace", func() {
			w.Kubectl("-n", world.Namespace, "delete", "rolebinding", "assay-operator")
			w.trouble(v1alpha1.ConditionPermitted, "PermissionMissing", "in namespace "+world.Namespace, "helm upgrade")
			w.Must(w.Helm("upgrade", values))
			w.well()
		}},
	})
}

// stopServer ends the server for longer than its StatefulSet would let it: the operator, which would undo that, is stopped first.
func (w *story) stopServer() {
	w.Helper()
	w.Kubectl("-n", world.Namespace, "scale", "deployment/assay-operator", "--replicas=0")
	w.Kubectl("-n", world.Namespace, "wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=assay-operator", "--timeout="+world.Slow.String())
	w.Kubectl("-n", world.Namespace, "scale", "statefulset/assay-server", "--replicas=0")
	w.Kubectl("-n", world.Namespace, "wait", "--for=delete", "pod/assay-server-0", "--timeout="+world.Slow.String())
}

func (w *story) platform() v1alpha1.AttestationPlatform {
	var p v1alpha1.AttestationPlatform
	_ = w.Object("/apis/integrity.assay.dev/v1alpha1/attestationplatforms/cluster", &p) // one that is not there yet has no conditions
	return p
}

// trouble waits until a condition is false for a reason, with a message that says certain things, and until Ready says so too.
func (w *story) trouble(condition, reason string, says ...string) {
	w.Helper()
	message := ""
	w.Eventually(condition+" is "+reason, world.Slow, func() string {
		p := w.platform()
		c, ready := meta.FindStatusCondition(p.Status.Conditions, condition), meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || ready == nil || c.Status != metav1.ConditionFalse || c.Reason != reason || ready.Status != metav1.ConditionFalse || ready.Reason != reason {
			return fmt.Sprintf("%+v", p.Status.Conditions)
		}
		message = c.Message
		return ""
	})
	w.Tell("the message: %s", message)
	for _, text := range says {
		if !strings.Contains(message, text) {
			w.Errorf("the message does not say %q: %s", text, message)
		}
	}
}

// well waits until everything is.
func (w *story) well() {
	w.Helper()
	w.Eventually("the platform is Ready", world.Slow, func() string {
		if p := w.platform(); !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) || p.Status.ObservedGeneration != p.Generation {
			return fmt.Sprintf("%+v", p.Status.Conditions)
		}
		return ""
	})
}
