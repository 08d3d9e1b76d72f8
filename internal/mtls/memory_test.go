package mtls

import (
	"maps"
	"testing"
	"time"
)

func TestFilesRoundTrip(t *testing.T) {
	a, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := a.Files()
	if err != nil || len(files) != 6 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	b, err := FromFiles(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(a.ServerCAs()) != string(b.ServerCAs()) || string(a.ClientCAs()) != string(b.ClientCAs()) || string(a.AgentCAs()) != string(b.AgentCAs()) || a.Pin() != b.Pin() {
		t.Error("what was read is not what was written")
	}
	issued, err := b.Issue(Request{Role: Operator, Name: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	if err := issued.Certificate.CheckSignatureFrom(a.cas[clients].cert); err != nil {
		t.Errorf("a certificate of the one is not the other's: %v", err)
	}
	if !b.Expires().After(time.Now().Add(authorityLifetime - time.Hour)) {
		t.Errorf("expires at %v", b.Expires())
	}
}

func TestFromFilesRefuses(t *testing.T) {
	a, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	good, err := a.Files()
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.Issue(Request{Role: Server, Name: "s", Hosts: []string{"s"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string][]byte){
		"a missing certificate":       func(f map[string][]byte) { delete(f, "servers-ca.crt") },
		"a missing key":               func(f map[string][]byte) { delete(f, "agents-ca.key") },
		"a key of another authority":  func(f map[string][]byte) { f["servers-ca.key"] = f["clients-ca.key"] },
		"two certificates":            func(f map[string][]byte) { f["servers-ca.crt"] = append(f["servers-ca.crt"], f["clients-ca.crt"]...) },
		"a certificate that is no CA": func(f map[string][]byte) { f["servers-ca.crt"], f["servers-ca.key"] = issued.CertPEM, issued.KeyPEM },
		"no PEM":                      func(f map[string][]byte) { f["clients-ca.crt"] = []byte("nothing") },
	} {
		files := maps.Clone(good)
		change(files)
		if _, err := FromFiles(files, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	late := func() time.Time { return time.Now().Add(authorityLifetime + time.Hour) }
	if _, err := FromFiles(good, late); err == nil {
		t.Error("expired authorities: accepted")
	}
	if _, err := FromFiles(good, nil); err != nil {
		t.Errorf("the same without a fault: %v", err)
	}
}
