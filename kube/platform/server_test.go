package platform

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/mtls/mtlstest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// TestJudgeServer: a server that answers is available only if the operator has its role there and its database works; what fails shows with advice, and
// ends with it.
func TestJudgeServer(t *testing.T) {
	authority, err := mtls.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(r mtls.Request) mtls.Issued {
		issued, err := authority.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		return issued
	}
	var answer atomic.Pointer[api.Server]
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("GET "+api.PathServer, func(w http.ResponseWriter, _ *http.Request) { reply(w, answer.Load()) })
	mux.HandleFunc("GET "+api.PathSuspension, func(w http.ResponseWriter, _ *http.Request) { reply(w, api.Suspension{}) })
	server := httptest.NewUnstartedServer(mux)
	pair, err := issue(mtls.Request{Role: mtls.Server, Name: "server", Hosts: []string{"127.0.0.1"}}).TLS()
	if err != nil {
		t.Fatal(err)
	}
	mtlstest.StartTLS(t, server, mtls.Fixed(pair))
	defer server.Close()

	own := issue(mtls.Request{Role: mtls.Operator, Name: "operator"})
	r := &Reconciler{Connection: &Connection{}, Namespace: "assay", Log: slog.New(slog.DiscardHandler)}
	if err := r.Connection.use(credentials{address: server.Listener.Addr().String(), ca: authority.ServerCAs(), cert: own.CertPEM, key: own.KeyPEM}); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		answer api.Server
		status metav1.ConditionStatus
		reason string
		says   []string
	}{
		{api.Server{Role: "operator", Version: "1"}, metav1.ConditionTrue, "Answers", []string{"version 1"}},
		{api.Server{Role: "operator", Version: "1", Database: "full"}, metav1.ConditionFalse, ReasonDatabase, []string{"its database fails: full", "Make room on the volume of PersistentVolumeClaim data-assay-server-0"}},
		{api.Server{Role: "operator", Version: "1"}, metav1.ConditionTrue, "Answers", nil},
		{api.Server{Role: "viewer", Version: "1"}, metav1.ConditionFalse, "WrongRole", []string{`"viewer"`}},
	} {
		answer.Store(&row.answer)
		found := findings{}
		r.judgeServer(t.Context(), &v1alpha1.AttestationPlatform{}, found, nil)
		c := found[v1alpha1.ConditionServer]
		if c.Status != row.status || c.Reason != row.reason {
			t.Errorf("%+v: %s/%s, want %s/%s: %s", row.answer, c.Status, c.Reason, row.status, row.reason, c.Message)
		}
		for _, want := range row.says {
			if !strings.Contains(c.Message, want) {
				t.Errorf("%q does not say %q", c.Message, want)
			}
		}
	}
}
