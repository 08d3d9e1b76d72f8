package platform

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// SecretEmulated holds the CA of emulated TPMs: key and certificate. Whoever runs an emulator has its key; the server marks what it endorses.
const SecretEmulated = "assay-emulated-ca"

// emulatedConfig is the configuration of swtpm_setup and of the CA that it calls.
func (in input) emulatedConfig() client.Object {
	return in.config(NameEmulated, map[string]string{
		"setup.conf": "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = /etc/swtpm/ca.conf\ncreate_certs_tool_options = /etc/swtpm/ca.options\n",
		"ca.conf":    fmt.Sprintf("statedir = /state\nsigningkey = /ca/%s\nissuercert = /ca/%s\ncertserial = /state/serial\n", keyKey, keyCert),
		"ca.options": "--platform-manufacturer Assay\n--platform-version 1\n--platform-model Emulated\n",
	})
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }

// emulatedCA returns the certificate of the emulators' CA, and makes it where there is none.
func (r *Reconciler) emulatedCA(ctx context.Context, p *v1alpha1.AttestationPlatform) ([]byte, error) {
	data, err := r.secret(ctx, SecretEmulated)
	if err == nil {
		return data[keyCert], nil
	} else if !apierrors.IsNotFound(err) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the emulators' CA: %w", err)
	}
	now := r.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Assay emulated TPMs: prove nothing"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the emulators' CA: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the emulators' CA: %w", err)
	}
	data = map[string][]byte{
		keyCert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
	return data[keyCert], r.writeSecret(ctx, p, SecretEmulated, corev1.SecretTypeTLS, data)
}

// endorseEmulators adds the emulators' root to the server, marked as such.
func (r *Reconciler) endorseEmulators(ctx context.Context, root []byte) error {
	block, _ := pem.Decode(root)
	if block == nil {
		return fmt.Errorf("secret %s: %s is not PEM", SecretEmulated, keyCert)
	}
	fingerprint := attest.SHA256.Sum(block.Bytes)
	server := r.Connection.Get()
	roots, err := server.Roots(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(roots, func(known api.Root) bool { return known.Fingerprint == fingerprint }) {
		return nil
	}
	_, err = server.AddEmulatedRoots(ctx, root)
	return err
}
