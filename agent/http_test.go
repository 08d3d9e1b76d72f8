package agent

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/wire"
)

// attester is a running agent as a verifier knows it after registration: address, certificate, AK.
type attester struct {
	t      *testing.T
	base   string
	client *http.Client
	ak     endorsement.AK
}

// newAttester runs an agent with a list and a boot log and waits until it answers.
func newAttester(t *testing.T, w *world, config Config) *attester {
	t.Helper()
	agent, _ := start(t, config)
	w.eventually("a heartbeat", func() bool { return len(w.beats) > 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	var record wire.RegisterRequest
	for _, record = range w.registered {
	}
	ak, failures, err := endorsement.ParseAK(record.AIK)
	if err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	if want := agent.Address().String(); fmt.Sprintf("%s:%d", record.IP, record.Port) != want {
		t.Errorf("the registrar is told %s:%d, the agent listens on %s", record.IP, record.Port, want)
	}
	return &attester{t: t, base: "https://" + agent.Address().String(), ak: ak, client: w.client(mtls.VerifierClient, der(t, record.Certificate))}
}

func der(t *testing.T, text string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no PEM: %q", text)
	}
	return block.Bytes
}

// get asks and returns status and body.
func (a *attester) get(path string) (int, string) {
	a.t.Helper()
	return a.do(http.MethodGet, path)
}

func (a *attester) do(method, path string) (int, string) {
	a.t.Helper()
	req, err := http.NewRequest(method, a.base+path, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// quoted asks for a quote and verifies it as the verifier would, over the mask united with PCR 16.
func (a *attester) quoted(path string, mask uint32) (wire.QuoteResults, quote.Verified) {
	a.t.Helper()
	code, text := a.get(path)
	if code != 200 {
		a.t.Fatalf("%s: %d %s", path, code, text)
	}
	var answer wire.Envelope[wire.QuoteResults]
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		a.t.Fatal(err)
	}
	raw, err := wire.UnpackQuote(answer.Results.Quote)
	if err != nil {
		a.t.Fatal(err)
	}
	parsed, err := quote.Parse(raw)
	if err != nil {
		a.t.Fatal(err)
	}
	transport := []byte(answer.Results.Pubkey)
	if len(transport) == 0 {
		_, text := a.get("/v2.6/keys/pubkey")
		var answer wire.Envelope[wire.PubkeyResults]
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			a.t.Fatal(err)
		}
		transport = []byte(answer.Results.Pubkey)
	}
	verified, failures := quote.Verify(parsed, quote.Expected{
		AK: a.ak, Nonce: []byte(nonce), Selection: pcr.Selection{Bank: attest.SHA256, Mask: mask}, TransportKey: transport,
	})
	if len(failures) > 0 {
		a.t.Fatalf("%s: %+v", path, failures)
	}
	return answer.Results, verified
}

const nonce = "1234567890ABCDEFHIJ0"

// measure appends an entry to the list and extends PCR 10 of every bank with zero-padded SHA-1, as a kernel without the banks' hashes does.
func measure(t *testing.T, emulator *swtpm.Emulator, path, entry string) {
	t.Helper()
	appendTo(t, path, entry)
	column, err := hex.DecodeString(strings.Fields(entry)[1])
	if err != nil {
		t.Fatal(err)
	}
	device, err := linuxudstpm.Open(emulator.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	extend := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: 10, Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: tpm2.TPMAlgSHA256, Digest: pcr.Pad(attest.SHA256, column)},
		}},
	}
	if _, err := extend.Execute(device); err != nil {
		t.Fatal(err)
	}
}

// newMeasured runs an attester with a measurement list and a boot log.
func newMeasured(t *testing.T, emulator *swtpm.Emulator) (*attester, string, []string) {
	t.Helper()
	w := newWorld(t)
	config := w.config(emulator)
	dir := t.TempDir()
	config.IMAList, config.BootLog = filepath.Join(dir, "list"), filepath.Join(dir, "log")
	for path, text := range map[string]string{config.IMAList: "", config.BootLog: "the boot log"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entries := []string{listLine("boot_aggregate", "x"), listLine("/bin/sh", "sh"), listLine("/bin/true", "true")}
	for _, entry := range entries {
		measure(t, emulator, config.IMAList, entry)
	}
	return newAttester(t, w, config), config.IMAList, entries
}

// A verifier's rounds: the whole list, nothing new, what is new; each list replays to the quote that came with it.
func TestPullIntegrity(t *testing.T) {
	emulator := startTPM(t)
	a, path, entries := newMeasured(t, emulator)
	results, verified := a.quoted("/v2.6/quotes/integrity?nonce="+nonce+"&mask=0x408401&partial=0&ima_ml_entry=0", 0x408401)
	if results.Pubkey == "" || results.HashAlg != "sha256" || results.EncAlg != "rsa2048" || results.SignAlg != "rsassa" {
		t.Errorf("results %+v", results)
	}
	if log, err := base64.StdEncoding.DecodeString(results.MbMeasurementList); err != nil || string(log) != "the boot log" {
		t.Errorf("boot log %q, error %v", log, err)
	}
	state := a.replay(results, verified, 0, ima.State{}, entries)

	results, verified = a.quoted("/v2.6/quotes/integrity?nonce="+nonce+"&mask=0x400&partial=1&ima_ml_entry=3", 0x400)
	if results.Pubkey != "" || results.MbMeasurementList != "" {
		t.Errorf("a partial answer without PCR 0 holds %+v", results)
	}
	state = a.replay(results, verified, 3, state, nil)

	fourth := listLine("/bin/false", "false")
	measure(t, emulator, path, fourth)
	results, verified = a.quoted("/v2.6/quotes/integrity?nonce="+nonce+"&mask=400&partial=1&ima_ml_entry=3", 0x400)
	a.replay(results, verified, 3, state, []string{fourth})

	// An entry that is in the list before the TPM has it is held back by the verifier, and no error.
	fifth := listLine("/bin/late", "late")
	appendTo(t, path, fifth)
	results, verified = a.quoted("/v2.6/quotes/integrity?nonce="+nonce+"&mask=400&partial=1&ima_ml_entry=0", 0x400)
	list, err := ima.ParseASCII([]byte(*results.ImaMeasurementList))
	if err != nil {
		t.Fatal(err)
	}
	replayed, failures := list.Replay(verified, ima.Request{PCR: 10})
	if len(failures) > 0 || len(replayed.Pending()) != 1 {
		t.Errorf("pending %v, failures %v; want one pending entry", replayed.Pending(), failures)
	}

	// Beyond the end: the whole list from 0.
	results, _ = a.quoted("/v2.6/quotes/integrity?nonce="+nonce+"&mask=400&partial=1&ima_ml_entry=99", 0x400)
	if *results.ImaMeasurementListEntry != 0 || *results.ImaMeasurementList != strings.Join(append(entries, fourth, fifth), "") {
		t.Errorf("list from %d: %s", *results.ImaMeasurementListEntry, *results.ImaMeasurementList)
	}
	if results.ImaMeasurementListBytes != "" {
		t.Error("a list in UTF-8 is sent twice")
	}

	// A name that is not UTF-8 travels beside the list.
	sixth := listLine("/bin/a\xffb", "any bytes")
	appendTo(t, path, sixth)
	results, _ = a.quoted("/v2.6/quotes/integrity?nonce="+nonce+"&mask=400&partial=1&ima_ml_entry=5", 0x400)
	if exact, err := base64.StdEncoding.DecodeString(results.ImaMeasurementListBytes); err != nil || string(exact) != sixth {
		t.Errorf("bytes %q, %v", exact, err)
	}
	if *results.ImaMeasurementList != strings.ToValidUTF8(sixth, "\ufffd") {
		t.Errorf("text %q", *results.ImaMeasurementList)
	}
}

// replay compares the list with what was measured and with the quote, and returns the state for the next round.
func (a *attester) replay(results wire.QuoteResults, verified quote.Verified, first uint64, from ima.State, want []string) ima.State {
	a.t.Helper()
	if results.ImaMeasurementListEntry == nil || *results.ImaMeasurementListEntry != first {
		a.t.Fatalf("the list starts at %v, want %d", results.ImaMeasurementListEntry, first)
	}
	if diff := cmp.Diff(strings.Join(want, ""), *results.ImaMeasurementList); diff != "" {
		a.t.Fatal(diff)
	}
	list, err := ima.ParseASCII([]byte(*results.ImaMeasurementList))
	if err != nil {
		a.t.Fatal(err)
	}
	replayed, failures := list.Replay(verified, ima.Request{PCR: 10, First: first, From: from})
	if len(failures) > 0 {
		a.t.Fatalf("%+v", failures)
	}
	return replayed.State()
}

func TestPullIdentityAndInfo(t *testing.T) {
	w := newWorld(t)
	config := w.config(startTPM(t))
	config.AK, config.ID = "ecc256", "node-7"
	a := newAttester(t, w, config)
	results, verified := a.quoted("/v2.1/quotes/identity?nonce="+nonce, 0)
	if results.EncAlg != "ecc" || results.SignAlg != "ecdsa" {
		t.Errorf("before 2.5 a P-256 key is %q, %q; want ecc, ecdsa", results.EncAlg, results.SignAlg)
	}
	if results.ImaMeasurementList != nil || results.MbMeasurementList != "" {
		t.Error("an identity quote comes with logs")
	}
	if got := verified.Selection(); got != pcr.Select(attest.SHA256, 16) {
		t.Errorf("quoted %s, want PCR 16", got)
	}
	for path, want := range map[string]string{
		"/version": `{"code":200,"status":"Success","results":{"supported_version":"2.6","supported_versions":["2.1","2.2","2.3","2.4","2.5","2.6"]}}`,
		"/v2.6/agent/info": `{"code":200,"status":"Success","results":{"agent_uuid":"node-7","tpm_hash_alg":"sha256",` +
			`"tpm_enc_alg":"ecc256","tpm_sign_alg":"ecdsa","ak_handle":0}}`,
	} {
		code, text := a.get(path)
		if diff := cmp.Diff(want, text); code != 200 || diff != "" {
			t.Errorf("%s: %d %s", path, code, diff)
		}
	}
}

// The refusals are the reference's, word for word where its clients may look (capture agent-endpoints of rust-keylime 0.2.9).
func TestPullRefusals(t *testing.T) {
	w := newWorld(t)
	a := newAttester(t, w, w.config(startTPM(t)))
	const good = "/v2.6/quotes/integrity?nonce=abc&mask=0x400&partial=1"
	if code, text := a.get(good); code != 200 {
		t.Fatalf("%s: %d %s", good, code, text)
	}
	for _, row := range []struct {
		method, path string
		code         int
		status       string
	}{
		{"GET", "/v9.9/keys/pubkey", 400, "API version not supported: v9.9"},
		{"GET", "/v2.0/version", 400, "API version not supported: v2.0"},
		{"GET", "/v3.0/keys/pubkey", 400, "API version not supported: v3.0"},
		{"GET", "/nothing", 400, "Not Implemented: Use /2.1, /2.2, /2.3, /2.4, /2.5, /2.6 or /version interfaces"},
		{"GET", "/v2.6/nothing", 404, `no such endpoint: "nothing"`},
		{"GET", "/v2.6/quotes/wrong", 400, "URI not supported, only /identity and /integrity are supported for GET in /quotes/ interface"},
		{"GET", "/v2.6/quotes/identity", 400, "Query deserialize error: missing field `nonce`"},
		{"GET", "/v2.6/quotes/identity?nonce=", 400, "Nonce is empty"},
		{"GET", "/v2.6/quotes/identity?nonce=a%20b", 400, "Parameters should be strictly alphanumeric: a b"},
		{"GET", "/v2.6/quotes/identity?nonce=" + strings.Repeat("a", 65), 400, "Nonce is too long (max size 64): " + strings.Repeat("a", 65)},
		{"GET", "/v2.6/quotes/identity?nonce=a&nonce=b", 400, "Query deserialize error: duplicate field `nonce`"},
		{"GET", "/v2.6/quotes/integrity?nonce=abc&mask=0x400&partial=2", 400, "uri must contain key 'partial' and value '0' or '1'"},
		{"GET", "/v2.6/quotes/integrity?nonce=abc&mask=0x400", 400, "Query deserialize error: missing field `partial`"},
		{"GET", "/v2.6/quotes/integrity?nonce=abc&mask=zz&partial=0", 400, "mask should be a hex encoded 32-bit integer: zz"},
		{"GET", "/v2.6/quotes/integrity?nonce=abc&partial=0", 400, "Query deserialize error: missing field `mask`"},
		{"GET", "/v2.6/quotes/integrity?nonce=abc&mask=0x1000000&partial=0", 400, "mask 0x1000000 names a PCR beyond 23"},
		{"GET", good + "&ima_ml_entry=-1", 400, "ima_ml_entry should be a decimal number: -1"},
		{"GET", "/v2.6/keys/verify?challenge=abc", 501, "/v2.6/keys/verify is not offered by this agent: it takes no payload"},
		{"POST", "/v2.6/keys/ukey", 501, "/v2.6/keys/ukey is not offered by this agent: it takes no payload"},
		{"POST", "/v2.6/keys/vkey", 501, "/v2.6/keys/vkey is not offered by this agent: it takes no payload"},
		{"POST", "/v2.6/notifications/revocation", 501, "/v2.6/notifications/revocation is not offered by this agent: it takes no payload"},
		{"POST", "/v2.6/keys/pubkey", 405, ""},
		{"PUT", "/v2.6/keys/ukey", 405, ""},
	} {
		t.Run(row.method+" "+row.path, func(t *testing.T) {
			code, text := a.do(row.method, row.path)
			want := ""
			if row.status != "" {
				encoded, err := json.Marshal(wire.Envelope[wire.Empty]{Code: row.code, Status: row.status})
				if err != nil {
					t.Fatal(err)
				}
				want = string(encoded)
			}
			if diff := cmp.Diff(want, text); code != row.code || diff != "" {
				t.Errorf("%d, want %d %s", code, row.code, diff)
			}
		})
	}
}

// Only the CA that the server named opens the port, and of its certificates only those whose role is to ask.
func TestPullWhoMayAsk(t *testing.T) {
	w := newWorld(t)
	a := newAttester(t, w, w.config(startTPM(t)))
	w.mu.Lock()
	var record wire.RegisterRequest
	for _, record = range w.registered {
	}
	w.mu.Unlock()
	certificate := der(t, record.Certificate)
	for _, role := range mtls.ClientRoles() {
		a.client = w.client(role, certificate)
		want := 403
		if slices.Contains([]mtls.Role{mtls.VerifierClient, mtls.Administrator}, role) {
			want = 200
		}
		if code, text := a.get("/version"); code != want {
			t.Errorf("%s: %d %s, want %d", role, code, text, want)
		}
	}
	stranger := &world{t: t, authority: newAuthority(t)}
	for name, client := range map[string]*http.Client{
		"no certificate": w.client("", certificate), "another CA": stranger.client(mtls.VerifierClient, certificate),
	} {
		resp, err := client.Get(a.base + "/version")
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
}

// Before the server has said who may ask, nobody may.
func TestPullUnannounced(t *testing.T) {
	w := newWorld(t)
	agent, _ := start(t, offline(t, startTPM(t)))
	resp, err := w.client(mtls.VerifierClient, []byte("any")).Get("https://" + agent.Address().String() + "/version")
	if err == nil {
		resp.Body.Close()
		t.Fatalf("answered %s", resp.Status)
	}
	if errors.Is(err, mtls.ErrPin) {
		t.Errorf("the agent shows its certificate: %v", err)
	}
}
