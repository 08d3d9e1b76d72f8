package endorsement

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// changed returns the TPM2B_PUBLIC of a real key after change.
func changed(t testing.TB, name string, change func(*tpm2.TPMTPublic)) []byte {
	t.Helper()
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](testdata(t, name)[2:])
	if err != nil {
		t.Fatal(err)
	}
	change(area)
	return tpm2.Marshal(tpm2.New2B(*area))
}

func rsaParams(t testing.TB, area *tpm2.TPMTPublic, change func(*tpm2.TPMSRSAParms)) {
	t.Helper()
	params, err := area.Parameters.RSADetail()
	if err != nil {
		t.Fatal(err)
	}
	change(params)
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, params)
}

func eccParams(t testing.TB, area *tpm2.TPMTPublic, change func(*tpm2.TPMSECCParms)) {
	t.Helper()
	params, err := area.Parameters.ECCDetail()
	if err != nil {
		t.Fatal(err)
	}
	change(params)
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, params)
}

func rsassa(h tpm2.TPMAlgID) tpm2.TPMTRSAScheme {
	return tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: h})}
}

func TestParseAK(t *testing.T) {
	for _, row := range []struct {
		file, keyAlg string
		scheme       SignAlgorithm
	}{
		{"ak.pub", "rsa2048", RSASSA},
		{"akecc.pub", "ecc256", ECDSA},
	} {
		ak, failures, err := ParseAK(testdata(t, row.file))
		if err != nil || failures != nil {
			t.Fatalf("%s: %v %v", row.file, failures, err)
		}
		scheme, hash := ak.Scheme()
		if !ak.Valid() || ak.KeyAlgorithm() != row.keyAlg || scheme != row.scheme || hash != attest.SHA256 {
			t.Errorf("%s: valid %v, %s, %s with %s", row.file, ak.Valid(), ak.KeyAlgorithm(), scheme, hash)
		}
		if !bytes.Equal(ak.Public(), testdata(t, row.file)) {
			t.Errorf("%s: Public differs from what was parsed", row.file)
		}
	}
}

func TestAKName(t *testing.T) {
	ak, _, err := ParseAK(testdata(t, "ak.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testdata(t, "ak.name"), ak.Name()); diff != "" {
		t.Errorf("name differs from the TPM's (-TPM +ours):\n%s", diff)
	}
}

// Each row breaks one rule of a key that passes TestParseAK.
func TestAKRules(t *testing.T) {
	attributes := func(change func(*tpm2.TPMAObject)) func(testing.TB, *tpm2.TPMTPublic) {
		return func(_ testing.TB, area *tpm2.TPMTPublic) { change(&area.ObjectAttributes) }
	}
	rsa := func(change func(*tpm2.TPMSRSAParms)) func(testing.TB, *tpm2.TPMTPublic) {
		return func(t testing.TB, area *tpm2.TPMTPublic) { rsaParams(t, area, change) }
	}
	ecc := func(change func(*tpm2.TPMSECCParms)) func(testing.TB, *tpm2.TPMTPublic) {
		return func(t testing.TB, area *tpm2.TPMTPublic) { eccParams(t, area, change) }
	}
	for _, row := range []struct {
		rule, file, want string
		change           func(testing.TB, *tpm2.TPMTPublic)
	}{
		{"unrestricted", "ak.pub", "restricted is not set", attributes(func(a *tpm2.TPMAObject) { a.Restricted = false })},
		{"no sign", "ak.pub", "sign is not set", attributes(func(a *tpm2.TPMAObject) { a.SignEncrypt = false })},
		{"decrypt", "ak.pub", "decrypt is set", attributes(func(a *tpm2.TPMAObject) { a.Decrypt = true })},
		{"not fixedTPM", "ak.pub", "fixedTPM is not set", attributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false })},
		{"not fixedParent", "ak.pub", "fixedParent is not set", attributes(func(a *tpm2.TPMAObject) { a.FixedParent = false })},
		{"software key", "ak.pub", "sensitiveDataOrigin is not set", attributes(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false })},
		{"sha1 name", "ak.pub", "name algorithm sha1", func(_ testing.TB, area *tpm2.TPMTPublic) { area.NameAlg = tpm2.TPMAlgSHA1 }},
		{"unknown name", "ak.pub", "name algorithm alg-0x0012", func(_ testing.TB, area *tpm2.TPMTPublic) { area.NameAlg = 0x12 }},
		{"null scheme", "ak.pub", "no signing scheme", rsa(func(p *tpm2.TPMSRSAParms) { p.Scheme = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull} })},
		{"sha1 scheme", "ak.pub", "scheme hash sha1", rsa(func(p *tpm2.TPMSRSAParms) { p.Scheme = rsassa(tpm2.TPMAlgSHA1) })},
		{"oaep scheme", "ak.pub", "scheme 0x0017", rsa(func(p *tpm2.TPMSRSAParms) {
			p.Scheme = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgOAEP, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA256})}
		})},
		{"small exponent", "ak.pub", "exponent is 3", rsa(func(p *tpm2.TPMSRSAParms) { p.Exponent = 3 })},
		{"wrong size", "ak.pub", "its parameters say 3072", rsa(func(p *tpm2.TPMSRSAParms) { p.KeyBits = 3072 })},
		{"rsa 1024", "ak.pub", "rsa key has 1024 bits", func(t testing.TB, area *tpm2.TPMTPublic) {
			rsaParams(t, area, func(p *tpm2.TPMSRSAParms) { p.KeyBits = 1024 })
			modulus, _ := area.Unique.RSA()
			area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: modulus.Buffer[:128]})
		}},
		{"even modulus", "ak.pub", "modulus is even", func(_ testing.TB, area *tpm2.TPMTPublic) {
			modulus, _ := area.Unique.RSA()
			modulus.Buffer[255] &^= 1
			area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, modulus)
		}},
		{"p-521", "akecc.pub", "neither P-256 nor P-384", ecc(func(p *tpm2.TPMSECCParms) { p.CurveID = tpm2.TPMECCNistP521 })},
		{"p-224", "akecc.pub", "neither P-256 nor P-384", ecc(func(p *tpm2.TPMSECCParms) { p.CurveID = tpm2.TPMECCNistP224 })},
		{"ecdaa", "akecc.pub", "scheme 0x001a", ecc(func(p *tpm2.TPMSECCParms) {
			p.Scheme = tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDAA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDAA, &tpm2.TPMSSchemeECDAA{HashAlg: tpm2.TPMAlgSHA256})}
		})},
		{"off the curve", "akecc.pub", "ecc point", func(_ testing.TB, area *tpm2.TPMTPublic) {
			point, _ := area.Unique.ECC()
			point.Y.Buffer[31] ^= 1
			area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, point)
		}},
		{"long coordinate", "akecc.pub", "coordinates of 33", func(_ testing.TB, area *tpm2.TPMTPublic) {
			point, _ := area.Unique.ECC()
			point.X.Buffer = append([]byte{0}, point.X.Buffer...)
			area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, point)
		}},
	} {
		t.Run(row.rule, func(t *testing.T) {
			public := changed(t, row.file, func(area *tpm2.TPMTPublic) { row.change(t, area) })
			ak, failures, err := ParseAK(public)
			if err != nil {
				t.Fatal(err)
			}
			if len(failures) != 1 || failures[0].ID != attest.AkAttributes || !strings.Contains(failures[0].Detail, row.want) {
				t.Errorf("failures %+v, expected one AkAttributes with %q", failures, row.want)
			}
			if ak.Valid() || ak.Name() != nil {
				t.Error("a key that breaks a rule came back")
			}
		})
	}
}

// All rules are checked, so that a person sees everything at once.
func TestAKReportsEveryBrokenRule(t *testing.T) {
	public := changed(t, "ak.pub", func(area *tpm2.TPMTPublic) {
		area.ObjectAttributes = tpm2.TPMAObject{Decrypt: true}
		area.NameAlg = tpm2.TPMAlgSHA1
		rsaParams(t, area, func(p *tpm2.TPMSRSAParms) { p.Scheme, p.Exponent = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull}, 3 })
	})
	_, failures, err := ParseAK(public)
	if err != nil || len(failures) != 9 {
		t.Errorf("%d failures, expected 9: %+v %v", len(failures), failures, err)
	}
}

func TestAKMalformed(t *testing.T) {
	good := testdata(t, "ak.pub")
	longer := append(bytes.Clone(good), 0)
	resized := bytes.Clone(longer)
	binary.BigEndian.PutUint16(resized, uint16(len(resized)-2))
	keyedHash := bytes.Clone(good)
	keyedHash[3] = 0x08
	for name, public := range map[string][]byte{
		"empty":               nil,
		"one byte":            good[:1],
		"cut off":             good[:100],
		"trailing byte":       longer,
		"trailing, resized":   resized,
		"keyed hash":          keyedHash,
		"longer than allowed": make([]byte, maxPublicBytes+1),
	} {
		if ak, failures, err := ParseAK(public); err == nil || ak.Valid() || failures != nil {
			t.Errorf("%s: %v, %v, expected an error", name, failures, err)
		}
	}
}

func FuzzParseAK(f *testing.F) {
	for _, name := range []string{"ak.pub", "akecc.pub", "ek.pub"} {
		f.Add(testdata(f, name))
	}
	f.Fuzz(func(t *testing.T, public []byte) {
		ak, failures, err := ParseAK(public)
		if ak.Valid() != (err == nil && len(failures) == 0) {
			t.Fatalf("valid %v with %v, %v", ak.Valid(), failures, err)
		}
		if ak.Valid() && !bytes.Equal(ak.Public(), public) {
			t.Fatal("Public differs from what was parsed")
		}
	})
}
