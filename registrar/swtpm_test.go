package registrar_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/tpm"
	"github.com/assay-project/assay/wire"
)

// A TPM emulator registers with EKs and AKs of all kinds and opens our credentials; the vendor's CA endorses the EKs that have a certificate.
func TestRealTPM(t *testing.T) {
	need.Swtpm(t)
	dir, err := os.MkdirTemp("", "registrar") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ca := filepath.Join(dir, "ca")
	tests := []struct {
		rsaBits  int
		kinds    []tpm.Kinds
		endorsed []bool
	}{
		{2048, []tpm.Kinds{{EK: tpm.RSA2048, AK: tpm.RSA2048}, {EK: tpm.ECC384, AK: tpm.ECC256}, {EK: tpm.ECC256, AK: tpm.ECC256}}, []bool{true, true, false}},
		{3072, []tpm.Kinds{{EK: tpm.RSA3072, AK: tpm.RSA2048}}, []bool{true}},
	}
	for _, tt := range tests {
		state := filepath.Join(dir, "s"+string(rune('0'+tt.rsaBits/1024)))
		if err := swtpm.Manufacture(t.Context(), swtpm.Options{StateDir: state, CADir: ca, RSABits: tt.rsaBits}); err != nil {
			t.Fatal(err)
		}
		emulator, err := swtpm.Start(t.Context(), swtpm.Config{StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		defer emulator.Stop()
		device, err := tpm.Open("swtpm:" + emulator.Socket())
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		for i, kinds := range tt.kinds {
			t.Run(string(kinds.EK)+" "+string(kinds.AK), func(t *testing.T) { activateReal(t, device, kinds, ca, tt.endorsed[i]) })
		}
	}
}

func activateReal(t *testing.T, device *tpm.TPM, kinds tpm.Kinds, ca string, endorsed bool) {
	w := newWorld(t)
	w.now = time.Now() // the emulator's certificates begin today
	authorities, err := swtpm.Authorities(ca)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.roots.AddPEM(authorities); err != nil {
		t.Fatal(err)
	}
	ek, err := device.EK(kinds.EK)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := device.CreateAK(kinds)
	if err != nil {
		t.Fatal(err)
	}
	const id = "node-1"
	request := wire.RegisterRequest{EK: ek.Public, AIK: ak.Key().Public(), EKCert: ek.Chain, IP: "127.0.0.1", Port: 9002, JoinToken: joinToken(1)}
	a, blob := w.register(id, request)
	w.want(a, 200, "Success")
	credential, err := wire.UnpackCredential(blob)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := device.ActivateCredential(ak, credential)
	if err != nil {
		t.Fatal(err)
	}
	w.want(w.call("", "PUT", "/v2.6/agents/"+id, wire.ActivateRequest{AuthTag: wire.AuthTag(secret, id)}), 200, "Success")
	active := w.store.records[id].Active
	if active == nil || (active.EndorsedBy != "") != endorsed {
		text, _ := json.Marshal(active)
		t.Errorf("endorsed should be %v: %s", endorsed, text)
	}
	shown, _ := w.show(id)
	if len(shown.Chain()) != len(ek.Chain) {
		t.Errorf("%d certificates are shown of %d", len(shown.Chain()), len(ek.Chain))
	}
}
