package forms

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/test/world"
)

// The two issuers of the platform: who may be a server must not be able to be a client.
const (
	serversIssuer = "our-servers"
	clientsIssuer = "our-clients"
)

// platform waits for a condition of the AttestationPlatform.
func (w *story) platform(kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
	w.Helper()
	var found metav1.Condition
	w.Eventually(fmt.Sprintf("the platform has %s=%s (%s)", kind, status, reason), world.Slow, func() string {
		var p v1alpha1.AttestationPlatform
		if err := w.Object(world.Group+"attestationplatforms/cluster", &p); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(p.Status.Conditions, kind)
		if c == nil || c.Status != status || c.Reason != reason {
			return fmt.Sprintf("%+v", p.Status.Conditions)
		}
		found = *c
		return ""
	})
	return found
}

// certManagerMissing: a cluster without cert-manager is told, and nothing else is made instead.
func (w *story) certManagerMissing() {
	w.Helper()
	w.Volume()
	w.Kubectl("label", "node", "vm1", "feature.node.kubernetes.io/tpm=true")
	w.Must(w.Helm("install", w.values(form{name: v1alpha1.FormPrivileged, imaPolicy: v1alpha1.IMAPolicyNone})))
	c := w.platform(v1alpha1.ConditionCertificates, metav1.ConditionFalse, "CertManagerMissing")
	if !strings.Contains(c.Message, "install cert-manager") {
		w.Errorf("the condition does not say what to do: %s", c.Message)
	}
	w.platform(v1alpha1.ConditionReady, metav1.ConditionFalse, "CertManagerMissing")
	out, err := w.Cluster.Kubectl(w.Ctx, "get", "secrets,statefulsets,daemonsets", "-n", world.Namespace, "-o", "name")
	w.Must(err)
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "sh.helm.release") {
			w.Errorf("without certificates there is %s", line)
		}
	}
}

// startCertManager installs cert-manager's CRDs and starts its controllers beside the cluster, until the test ends.
func (w *story) startCertManager() {
	w.Helper()
	program, crds, err := cluster.CertManager(w.Ctx, cluster.BuildConfig{Progress: func(text string) { w.Tell("%s", text) }})
	w.Must(err)
	w.Kubectl("apply", "--server-side", "-f", crds)
	w.Kubectl("wait", "--for=condition=Established", "--timeout="+world.Slow.String(), "crd/certificates.cert-manager.io", "crd/issuers.cert-manager.io", "crd/certificaterequests.cert-manager.io")
	log, err := os.Create(filepath.Join(w.Home, "cert-manager.log"))
	w.Must(err)
	cmd := exec.Command(program, "-kubeconfig", w.Cluster.KubeconfigPath())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel ends the program with the thread that started it
		started <- cmd.Start()
		ended <- cmd.Wait()
	}()
	w.Must(<-started)
	w.certManager = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			w.Errorf("cert-manager: %v", err)
		}
		if err := log.Close(); err != nil {
			w.Error(err)
		}
		if text, err := os.ReadFile(log.Name()); err == nil && w.Failed() {
			w.Logf("cert-manager:\n%s", text[max(0, len(text)-8000):])
		}
	}
}

// authority is a CA of cert-manager: a self-signed certificate, and the issuer that signs with it.
func authority(name string) string {
	return fmt.Sprintf(`
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  isCA: true
  commonName: %[1]s
  secretName: %[1]s
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: selfsigned, kind: Issuer}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: %[1]s, namespace: %[2]s}
spec: {ca: {secretName: %[1]s}}
`, name, world.Namespace)
}

// certManagerIssues: with cert-manager and the two issuers that the values name everything is made without another hand.
func (w *story) certManagerIssues() {
	w.Helper()
	w.startCertManager()
	w.Must(w.Cluster.Apply(w.Ctx, fmt.Sprintf(`
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: selfsigned, namespace: %s}
spec: {selfSigned: {}}`, world.Namespace)+authority(serversIssuer)+authority(clientsIssuer)))
	w.platform(v1alpha1.ConditionCertificates, metav1.ConditionTrue, v1alpha1.SourceCertManager)
	w.platform(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")
	w.Login()
	for _, name := range []string{"assay-authorities", "assay-server-tls"} {
		err := w.Object(secretPath(name), new(struct{}))
		if isThere := err == nil; isThere != (name == "assay-server-tls") {
			w.Errorf("Secret %s: %v", name, err)
		}
	}
}

func secretPath(name string) string {
	return "/api/v1/namespaces/" + world.Namespace + "/secrets/" + name
}

// secret is what a Secret holds.
func (w *story) secret(name string) map[string][]byte {
	w.Helper()
	var s struct{ Data map[string][]byte }
	w.Must(w.Object(secretPath(name), &s))
	return s.Data
}

// impostor: a certificate that names the role administrator counts under the clients' authority alone.
func (w *story) impostor() {
	w.Helper()
	for _, issuer := range []string{serversIssuer, clientsIssuer} {
		name := "administrator-by-" + issuer
		w.Must(w.Cluster.Apply(w.Ctx, fmt.Sprintf(`
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  commonName: somebody
  secretName: %[1]s
  uris: ["assay:role:administrator"]
  usages: [digital signature, client auth]
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: %[3]s, kind: Issuer}
`, name, world.Namespace, issuer)))
		w.Kubectl("wait", "--for=condition=Ready", "--timeout="+world.Slow.String(), "-n", world.Namespace, "certificate/"+name)
		pair := w.secret(name)
		certificate, err := tls.X509KeyPair(pair["tls.crt"], pair["tls.key"])
		w.Must(err)
		somebody, err := client.New(client.Config{URL: w.URL(), TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: w.serverCAs(), Certificates: []tls.Certificate{certificate}}})
		w.Must(err)
		switch s, err := somebody.Server(w.Ctx); {
		case issuer == clientsIssuer && (err != nil || s.Role != "administrator"):
			w.Errorf("a certificate of %s: role %q, %v", issuer, s.Role, err)
		case issuer == serversIssuer && (err == nil || !strings.Contains(err.Error(), "certificate")):
			w.Errorf("a certificate of %s: role %q, %v", issuer, s.Role, err)
		}
	}
}

// serverCAs are those by which the server is known.
func (w *story) serverCAs() *x509.CertPool {
	w.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(w.secret("assay-server-tls")["ca.crt"]) {
		w.Fatal("assay-server-tls has no CA")
	}
	return pool
}

// issueAgain has cert-manager issue certificates anew, with new keys, as it does when they near their end.
func (w *story) issueAgain(names ...string) {
	w.Helper()
	before := map[string]string{}
	for _, name := range names {
		before[name] = string(w.secret(name)["tls.key"])
		patch, err := json.Marshal([]map[string]any{{"op": "add", "path": "/status/conditions/-", "value": map[string]string{
			"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "asked by a person", "lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
		}}})
		w.Must(err)
		w.Kubectl("patch", "certificate", name, "-n", world.Namespace, "--subresource=status", "--type=json", "--patch", string(patch))
	}
	w.Eventually(fmt.Sprintf("cert-manager has issued %v anew", names), world.Slow, func() string {
		for _, name := range names {
			if string(w.secret(name)["tls.key"]) == before[name] {
				return name + " is as it was"
			}
		}
		return ""
	})
}

// renew replaces the servers' authority and every certificate that is in use all the time. The administrator of the story trusts the old authority and
// the new one, as a person who follows a renewal does.
func (w *story) renew() {
	w.Helper()
	w.settled = w.platform(v1alpha1.ConditionCertificates, metav1.ConditionTrue, v1alpha1.SourceCertManager).LastTransitionTime
	old := w.secret("assay-server-tls")["ca.crt"]
	w.issueAgain(serversIssuer)
	folder := filepath.Join(w.Home, "administrator")
	w.Must(os.WriteFile(filepath.Join(folder, "ca.pem"), append(old, w.secret(serversIssuer)["tls.crt"]...), 0o600))
	w.issueAgain("assay-server-tls", "assay-verifier-tls", "assay-operator-tls")
	if got := w.secret("assay-server-tls")["ca.crt"]; bytes.Equal(got, old) {
		w.Errorf("the servers' authority is the old one:\n%s", got)
	}
	var err error
	w.API, err = client.FromFolder(w.URL(), folder)
	w.Must(err)
}

// renewed: the server shows its new certificate and uses its new one towards agents, the operator too, and nobody has noticed.
func (w *story) renewed() {
	w.Helper()
	want, err := tls.X509KeyPair(w.secret("assay-server-tls")["tls.crt"], w.secret("assay-server-tls")["tls.key"])
	w.Must(err)
	w.Eventually("the server shows its new certificate", world.Slow, func() string {
		dialer := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: w.serverCAs()}}
		conn, err := dialer.DialContext(w.Ctx, "tcp", strings.TrimPrefix(w.URL(), "https://"))
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		if got := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]; !got.Equal(want.Leaf) {
			return fmt.Sprintf("it shows serial %v, not %v", got.SerialNumber, want.Leaf.SerialNumber)
		}
		return ""
	})
	w.rounds()
	w.platform(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")
	if c := w.platform(v1alpha1.ConditionCertificates, metav1.ConditionTrue, v1alpha1.SourceCertManager); !c.LastTransitionTime.Equal(&w.settled) {
		w.Errorf("the renewal showed as a trouble: %s holds since %s, before it since %s", c.Type, c.LastTransitionTime, w.settled)
	}
	w.sameIdentity()
	w.happened()
}
