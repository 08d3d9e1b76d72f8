package agent

import (
	"crypto/x509"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
)

// Servers accept an agent under the exact certificate that it registered. So one that is about to expire is replaced while the agent runs, of the
// same key, and registered before anybody is answered under it.
func TestCertificateIsRenewed(t *testing.T) {
	w, emulator := newWorld(t), startTPM(t)
	config := w.config(emulator)
	_, stop := start(t, config)
	w.eventually("a heartbeat", func() bool { return len(w.beats) > 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	id, record := w.one()
	leaf, err := x509.ParseCertificate(der(t, record.Certificate))
	if err != nil {
		t.Fatal(err)
	}

	// The last agent's certificate comes into its last month a while from now, and the next agent's clock goes there at once.
	const away = 30 * time.Minute
	made := time.Now().Add(away).AddDate(0, 1, 0).AddDate(-certificateYears, 0, 0)
	store, closeState := newKeyStore(t, config.StateDir, made)
	if err := os.Remove(store.state.Path(fileTLSCert)); err != nil {
		t.Fatal(err)
	}
	old, err := store.certificate(attest.AgentID(id), leaf.IPAddresses[0].String())
	if err != nil {
		t.Fatal(err)
	}
	closeState()

	w.forget()
	var ahead atomic.Int64
	agent, _ := startAt(t, config, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	w.eventually("a heartbeat under the old certificate", func() bool { return len(w.beats) > 0 })
	if _, record := w.one(); string(der(t, record.Certificate)) != string(old.Leaf.Raw) {
		t.Fatal("the agent does not start with its old certificate")
	}
	ahead.Store(int64(away))
	beats := 0
	w.eventually("another certificate", func() bool {
		beats = len(w.beats)
		return string(der(t, w.registered[id].Certificate)) != string(old.Leaf.Raw)
	})
	w.eventually("a heartbeat under another certificate", func() bool { return len(w.beats) > beats })
	_, record = w.one()
	renewed, err := x509.ParseCertificate(der(t, record.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	if mtls.KeyDigest(renewed) != mtls.KeyDigest(old.Leaf) || expires(renewed, time.Now()) {
		t.Errorf("renewed until %s, of the same key: %t", renewed.NotAfter, mtls.KeyDigest(renewed) == mtls.KeyDigest(old.Leaf))
	}
	url := "https://" + agent.Address().String() + "/version"
	if _, err := w.client(mtls.VerifierClient, old.Leaf.Raw).Get(url); err == nil {
		t.Error("the old certificate is still presented")
	}
	answer, err := w.client(mtls.VerifierClient, renewed.Raw).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 200 {
		t.Errorf("under the renewed certificate: %s", answer.Status)
	}
}
