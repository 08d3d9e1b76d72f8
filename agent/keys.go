package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/durable"
)

// Files of the state directory. None of them is secret from the agent's own user, and all keys are useless to forge a quote.
const (
	stateVersion     = "assay-agent 1"
	fileTransportKey = "transport-key.pem"
	fileTLSKey       = "tls-key.pem"
	fileTLSCert      = "tls-cert.pem"
	fileAK           = "ak.json"
)

const (
	transportKeyBits  = 2048 // Keylime's tenants and verifiers expect it
	certificateYears  = 10
	maxStateFileBytes = 1 << 20
)

// keyStore keeps the agent's keys that are not the TPM's, in the state directory.
type keyStore struct {
	state *durable.Dir
	rand  io.Reader
	now   func() time.Time
}

// transportKey returns the PEM of the transport key's public half, making the key at the first start. PCR 16 binds these bytes.
func (s keyStore) transportKey() ([]byte, error) {
	key, err := s.key(fileTransportKey, func() (crypto.Signer, error) { return rsa.GenerateKey(s.rand, transportKeyBits) })
	if err != nil {
		return nil, fmt.Errorf("transport key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("transport key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), nil
}

// certificate returns the agent's self-signed certificate, with which it serves quotes and dials servers. The key stays the same; the
// certificate is made anew when it names another agent or address, or is about to expire.
func (s keyStore) certificate(id attest.AgentID, address string) (*tls.Certificate, error) {
	key, err := s.key(fileTLSKey, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), s.rand) })
	if err != nil {
		return nil, fmt.Errorf("TLS key: %w", err)
	}
	if leaf, err := s.storedCertificate(key, id, address); err == nil {
		return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
	}
	der, err := s.selfSign(key, id, address)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	if err := durable.WriteFile(s.state.Path(fileTLSCert), encodeCertificate(leaf), 0o644); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// storedCertificate returns the certificate of the last start if it still serves.
func (s keyStore) storedCertificate(key crypto.Signer, id attest.AgentID, address string) (*x509.Certificate, error) {
	text, err := readState(s.state.Path(fileTLSCert))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	public, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || !public.Equal(key.Public()):
		return nil, errors.New("of another key")
	case leaf.Subject.CommonName != string(id):
		return nil, errors.New("of another agent")
	case leaf.VerifyHostname(address) != nil:
		return nil, errors.New("of another address")
	case expires(leaf, s.now()):
		return nil, errors.New("expires")
	}
	return leaf, nil
}

// expires says whether a certificate is to be made anew: with a month left, so that a server that is away for long still knows the old one.
func expires(leaf *x509.Certificate, now time.Time) bool {
	return now.AddDate(0, 1, 0).After(leaf.NotAfter)
}

func (s keyStore) selfSign(key crypto.Signer, id attest.AgentID, address string) ([]byte, error) {
	serial := make([]byte, 16)
	if _, err := io.ReadFull(s.rand, serial); err != nil {
		return nil, err
	}
	serial[0] &= 0x7f
	now := s.now()
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: string(id)},
		// A verifier whose clock is behind shall not refuse a new agent.
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.AddDate(certificateYears, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(address); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{address}
	}
	return x509.CreateCertificate(s.rand, template, template, key.Public(), key)
}

// key loads a private key, or makes and keeps one if there is none. A file that is there and does not parse is an error: a new key in its
// place would look to the verifier as if somebody had taken the agent's.
func (s keyStore) key(name string, make func() (crypto.Signer, error)) (crypto.Signer, error) {
	path := s.state.Path(name)
	text, err := readState(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.newKey(path, make)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM; remove it to get a new key at the next boot", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it to get a new key at the next boot", path, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a %T does not sign", path, parsed)
	}
	return key, nil
}

func (s keyStore) newKey(path string, make func() (crypto.Signer, error)) (crypto.Signer, error) {
	key, err := make()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, durable.WriteFile(path, text, 0o600)
}

// readState reads a file of the state directory.
func readState(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxStateFileBytes))
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return text, nil
}

// encodeCertificate returns a certificate in PEM, as the registrar takes it.
func encodeCertificate(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}
