package client

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
)

// Files name what a client needs to be somebody: the servers' CA, a client certificate and its key, all PEM.
type Files struct{ CA, Certificate, Key string }

// Folder names the files of a folder as the server and `assay cert issue` write it.
func Folder(path string) Files {
	return Files{CA: filepath.Join(path, "ca.pem"), Certificate: filepath.Join(path, "cert.pem"), Key: filepath.Join(path, "key.pem")}
}

// FromFolder makes a client with the certificate in a folder.
func FromFolder(url, path string) (*Client, error) { return Folder(path).Client(url) }

// Client makes a client of the server at url.
func (f Files) Client(url string) (*Client, error) {
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read the servers' CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("the servers' CA %s holds no certificate", f.CA)
	}
	pair, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
	if err != nil {
		return nil, fmt.Errorf("load the client certificate: %w", err)
	}
	return New(Config{URL: url, TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}})
}
