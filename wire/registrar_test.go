package wire

import (
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRegistrarBodiesBothWays(t *testing.T) {
	tests := []struct {
		name string
		run  func(t *testing.T, e exchange)
	}{
		{"version", func(t *testing.T, e exchange) { roundTrip[Envelope[RegistrarVersionResults]](t, e.Response) }},
		{"register rsa", registerBothWays},
		{"register ecc", registerBothWays},
		{"register iak", registerBothWays},
		{"register push", registerBothWays},
		{"refused other tpm", registerBothWays},
		{"activate rsa", activateBothWays},
		{"activate ecc", activateBothWays},
		{"activate swtpm", activateBothWays},
		{"activate unknown", activateBothWays},
		{"show rsa", func(t *testing.T, e exchange) { roundTrip[Envelope[AgentRecord]](t, e.Response) }},
		{"show swtpm", func(t *testing.T, e exchange) { roundTrip[Envelope[AgentRecord]](t, e.Response) }},
		{"show unknown", func(t *testing.T, e exchange) { roundTrip[Envelope[Empty]](t, e.Response) }},
		{"show anonymous", func(t *testing.T, e exchange) { roundTrip[ErrorsBody](t, e.Response) }},
		{"show bearer", func(t *testing.T, e exchange) { roundTrip[ErrorsBody](t, e.Response) }},
		{"list", func(t *testing.T, e exchange) { roundTrip[Envelope[AgentList]](t, e.Response) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, captured(t, "registrar.json", tt.name)) })
	}
}

// registerBothWays holds for what the Rust agent sends, null and "" included.
func registerBothWays(t *testing.T, e exchange) {
	roundTrip[RegisterRequest](t, e.Request)
	if e.Status == 200 {
		roundTrip[Envelope[RegisterResults]](t, e.Response)
	}
}

func activateBothWays(t *testing.T, e exchange) {
	roundTrip[ActivateRequest](t, e.Request)
	if e.Status == 200 {
		roundTrip[Envelope[ActivateResults]](t, e.Response)
	} else {
		roundTrip[Envelope[Empty]](t, e.Response)
	}
}

func TestRegisterRequestReads(t *testing.T) {
	var rust RegisterRequest
	if err := json.Unmarshal([]byte(captured(t, "registrar.json", "register rsa").Request), &rust); err != nil {
		t.Fatal(err)
	}
	if len(rust.EKCert) != 2 || len(rust.AIK) != 282 || len(rust.EK) != 316 || rust.Port != 39002 || rust.IP != "127.0.0.1" {
		t.Errorf("got %d certificates, AIK of %d bytes, EK of %d, %s:%d", len(rust.EKCert), len(rust.AIK), len(rust.EK), rust.IP, rust.Port)
	}
	var shown Envelope[AgentRecord]
	if err := json.Unmarshal([]byte(captured(t, "registrar.json", "show rsa").Response), &shown); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rust.EKCert[0], shown.Results.Chain()[0]); diff != "" {
		t.Errorf("the registrar showed another EK certificate: %s", diff)
	}
	curl := captured(t, "registrar.json", "register swtpm").Request // without the members of IAK and IDevID
	var sparse RegisterRequest
	if err := json.Unmarshal([]byte(curl), &sparse); err != nil {
		t.Fatal(err)
	}
	if sparse.EKCert != nil || sparse.IAK != nil || !strings.HasPrefix(sparse.Certificate, "-----BEGIN") {
		t.Errorf("got %+v", sparse)
	}
}

func TestRegisterRequestTolerates(t *testing.T) {
	hexadecimal := `{"ek_tpm":"0x00ff","aik_tpm":"00fg00==","ip":null,"port":null,"mtls_cert":null,"iak_attest":null,"from_the_future":{"x":1}}`
	var r RegisterRequest
	err := json.Unmarshal([]byte(hexadecimal), &r)
	if err == nil || !strings.Contains(err.Error(), "aik_tpm") {
		t.Errorf("text that is neither base64 nor hexadecimal: got %v", err)
	}
	if err := json.Unmarshal([]byte(strings.Replace(hexadecimal, "00fg00==", "ABEi", 1)), &r); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(RegisterRequest{EK: Binary{0, 0xff}, AIK: Binary{0, 0x11, 0x22}}, r); diff != "" {
		t.Error(diff)
	}
}

func TestRegisterRequestRefuses(t *testing.T) {
	block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}))
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE THING", Bytes: []byte{0x30, 0}}))
	tests := []struct{ name, member, value, detail string }{
		{"number for bytes", "ek_tpm", `7`, "number"},
		{"no base64", "ek_tpm", `"a=b"`, "neither base64 nor hexadecimal"},
		{"line end in base64", "ek_tpm", `"ABEi\n"`, "neither base64 nor hexadecimal"},
		{"spare bits in base64", "ek_tpm", `"ABF="`, "neither base64 nor hexadecimal"},
		{"long bytes", "ek_tpm", `"` + strings.Repeat("A", maxBinaryBytes+4) + `"`, "more than 65536"},
		{"list for a certificate", "ekcert", `[]`, "array"},
		{"text before PEM", "ekcert", quoted(t, block+"subject=x\n"+block), "before PEM block 2"},
		{"half a block", "ekcert", quoted(t, block[:len(block)-10]), "PEM block 1 that is not well formed"},
		{"other block", "ekcert", quoted(t, block+key), `PEM block 2 of type "PRIVATE THING"`},
		{"many certificates", "ekcert", quoted(t, strings.Repeat(block, maxCertificates+1)), "more than 10 certificates"},
		{"large certificate", "ekcert", quoted(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: make([]byte, maxCertificateBytes+1)}))), "8193 bytes"},
		{"empty certificate", "ekcert", quoted(t, "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), "0 bytes"},
		{"certificate neither PEM nor base64", "iak_cert", `"hello!"`, "neither base64 nor hexadecimal"},
		{"port as text", "port", `"9002"`, "port"},
		{"fraction of a port", "port", `1.5`, "port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := json.Unmarshal([]byte(`{"`+tt.member+`":`+tt.value+`}`), &RegisterRequest{})
			if err == nil || !strings.Contains(err.Error(), tt.detail) || !strings.Contains(err.Error(), tt.member) {
				t.Errorf("got %v, want %q and the member's name", err, tt.detail)
			}
		})
	}
	whole := `{"ek_tpm":"ABEi","ekcert":` + quoted(t, "\n"+block+"\n\n"+block) + `,"iak_cert":"MAA=","port":9002}`
	if err := json.Unmarshal([]byte(whole), &RegisterRequest{}); err != nil {
		t.Errorf("without faults: %v", err)
	}
}

func quoted(t *testing.T, text string) string {
	t.Helper()
	q, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(q)
}

func TestAgentRecordCarriesIssuers(t *testing.T) {
	ip, port := "fe80::1%eth0", 1
	record := AgentRecord{EKCert: Certificate{1}, EKIssuers: []Certificate{{2}, {3}}, IP: &ip, Port: &port}
	text, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	var again AgentRecord
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]byte{{1}, {2}, {3}}, again.Chain()); diff != "" {
		t.Error(diff)
	}
	if chain := (AgentRecord{}).Chain(); chain != nil {
		t.Errorf("without a certificate: got %v", chain)
	}
}

func FuzzRegisterRequest(f *testing.F) {
	for _, name := range []string{"register rsa", "register iak", "register swtpm"} {
		f.Add([]byte(captured(f, "registrar.json", name).Request))
	}
	f.Add([]byte(`{"ekcert":"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----","iak_cert":"MAA="}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var first, second RegisterRequest
		if json.Unmarshal(text, &first) != nil {
			return
		}
		again, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &second); err != nil {
			t.Fatalf("cannot read %s: %v", again, err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Error(diff)
		}
	})
}
