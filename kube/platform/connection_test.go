package platform

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// TestConnection: a client lives as long as what it is made of; what is wrong leaves the former one alone, and what is gone is dropped.
func TestConnection(t *testing.T) {
	a, err := mtls.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	issue := func() credentials {
		issued, err := a.Issue(mtls.Request{Role: mtls.Operator, Name: "operator"})
		if err != nil {
			t.Fatal(err)
		}
		return credentials{address: "assay-server.assay.svc:8443", ca: a.ServerCAs(), cert: issued.CertPEM, key: issued.KeyPEM}
	}
	good := issue()
	c := &Connection{}
	if c.Get() != nil {
		t.Error("a client of nothing")
	}
	if err := c.use(good); err != nil || c.Get() == nil {
		t.Fatalf("%v", err)
	}
	first := c.Get()
	if err := c.use(good); err != nil || c.Get() != first {
		t.Errorf("the same credentials made another client: %v", err)
	}
	for name, row := range map[string]struct {
		spoil func(*credentials)
		says  string
	}{
		"no port":               {func(k *credentials) { k.address = "assay-server" }, `server address "assay-server"`},
		"another one's key":     {func(k *credentials) { k.key = issue().key }, "the operator's certificate"},
		"no certificate":        {func(k *credentials) { k.cert = []byte("x") }, "the operator's certificate"},
		"an authority of words": {func(k *credentials) { k.ca = []byte("x") }, ""},
	} {
		k := good
		row.spoil(&k)
		if err := c.use(k); err == nil || !strings.Contains(err.Error(), row.says) || c.Get() != first {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.use(issue()); err != nil || c.Get() == first {
		t.Errorf("new credentials, the former client: %v", err)
	}
	if c.drop(); c.Get() != nil {
		t.Error("dropped, and there")
	}
}

// TestCertificateOfCertManager: each leaf asks for its role and usage, the server's for all its names.
func TestCertificateOfCertManager(t *testing.T) {
	for _, l := range leaves("assay", []string{"attest.example", "192.0.2.7", "2001:db8::7"}) {
		c := certificate("assay", l, v1alpha1.IssuerReference{Name: "issuer", Kind: "ClusterIssuer"})
		read := func(path ...string) any {
			v, _, err := unstructured.NestedFieldNoCopy(c.Object, append([]string{"spec"}, path...)...)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		want := map[string]any{
			"uris": []any{"assay:role:" + string(l.role)}, "usages": []any{"digital signature", "client auth"}, "dnsNames": nil, "ipAddresses": nil, "secretName": l.secret,
		}
		if l.role == mtls.Server {
			want["usages"] = []any{"digital signature", "server auth"}
			want["dnsNames"] = []any{"assay-server", "assay-server.assay", "assay-server.assay.svc", "assay-server.assay.svc.cluster.local", "attest.example", "localhost"}
			want["ipAddresses"] = []any{"127.0.0.1", "192.0.2.7", "2001:db8::7"}
		}
		got := map[string]any{}
		for key := range want {
			got[key] = read(key)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", l.secret, diff)
		}
		if read("issuerRef", "kind") != "ClusterIssuer" || read("privateKey", "rotationPolicy") != "Always" || c.GetNamespace() != "assay" {
			t.Errorf("%s: %+v", l.secret, c.Object)
		}
	}
}

// TestRevision: a CRD without a revision, or with a wrong one, is told from one that has it.
func TestRevision(t *testing.T) {
	for text, want := range map[string]int{"3": 3, "-1": -1, "": 0, "three": 0} {
		crd := &unstructured.Unstructured{Object: map[string]any{}}
		crd.SetName("nodereports.integrity.assay.dev")
		crd.SetAnnotations(map[string]string{annotationRevision: text})
		got, err := revision(crd)
		if wrong := text == "" || text == "three"; got != want || (err != nil) != wrong || wrong && !strings.Contains(err.Error(), "nodereports.integrity.assay.dev") {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
