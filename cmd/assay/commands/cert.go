package commands

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/durable"
)

func certCommand() *cobra.Command {
	return group("cert", "Client certificates", certIssueCommand())
}

func certIssueCommand() *cobra.Command {
	var request api.CertificateRequest
	var lifetime time.Duration
	var out string
	c := &cobra.Command{
		Use: "issue --role ROLE --name NAME --out DIR", Short: "Make a key here and have the server sign a certificate with a role", Args: exactly(0),
		Long: "Roles: administrator, operator, viewer, policy-author, verifier-client. The key is made here and never leaves DIR,\n" +
			"which gets ca.pem, cert.pem and key.pem, as `assay login --credentials` wants them.",
		RunE: func(c *cobra.Command, _ []string) error {
			if request.Role == "" || request.Name == "" || out == "" {
				return cli.Usage(fmt.Errorf("cert issue needs --role, --name and --out"))
			}
			request.Lifetime = lifetime.Seconds()
			return issue(c, request, out)
		},
	}
	c.Flags().StringVar(&request.Role, "role", "", "what the certificate may do")
	c.Flags().StringVar(&request.Name, "name", "", "whose it is, for the server's log")
	c.Flags().StringVar(&out, "out", "", "folder to write to")
	c.Flags().DurationVar(&lifetime, "lifetime", 90*24*time.Hour, "how long it is valid")
	return c
}

func issue(c *cobra.Command, request api.CertificateRequest, out string) error {
	if _, err := os.Stat(filepath.Join(out, "key.pem")); err == nil {
		return fmt.Errorf("%s holds a key already: choose another folder", out)
	}
	server, err := connect(c)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	asked, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: request.Name}}, key)
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	request.Request = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: asked}))
	answer, err := server.IssueCertificate(c.Context(), request)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	for name, text := range map[string][]byte{
		"ca.pem": []byte(answer.ServerCA), "cert.pem": []byte(answer.Certificate),
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	} {
		if err := durable.WriteFile(filepath.Join(out, name), text, 0o600); err != nil {
			return fmt.Errorf("write certificate: %w", err)
		}
	}
	fmt.Fprintf(c.OutOrStdout(), "wrote ca.pem, cert.pem and key.pem to %s\n", out)
	return nil
}
