package platform

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/assay-project/assay/internal/mtls"
)

// leaf is a certificate that the built-in authorities issue into a Secret.
type leaf struct {
	secret string
	role   mtls.Role
	hosts  []string
}

// leaves are the certificates of a platform. The server's hosts are all names under which anybody in or outside the cluster dials it.
func leaves(namespace string, hosts []string) []leaf {
	service := NameServer + "." + namespace
	names := append([]string{NameServer, service, service + ".svc", service + ".svc.cluster.local", "localhost", "127.0.0.1"}, hosts...)
	slices.Sort(names)
	return []leaf{
		{SecretServer, mtls.Server, slices.Compact(names)},
		{SecretVerifier, mtls.VerifierClient, nil},
		{SecretOperator, mtls.Operator, nil},
		{SecretAdministrator, mtls.Administrator, nil},
	}
}

// data returns what the Secret shall hold: what it holds already, as long as that is good.
func (l leaf) data(a authorities, have map[string][]byte, now time.Time) (map[string][]byte, error) {
	serverCAs, _ := a.bundles()
	next := map[string][]byte{keyCert: have[keyCert], keyKey: have[keyKey], keyCA: serverCAs}
	if l.good(a, have, now) == nil {
		return next, nil
	}
	issued, err := a.current.Issue(mtls.Request{Role: l.role, Name: l.secret, Hosts: l.hosts})
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", l.secret, err)
	}
	next[keyCert], next[keyKey] = issued.CertPEM, issued.KeyPEM
	return next, nil
}

// good says why a stored certificate has to be made anew: it is none, the current authority did not sign it, it is for other hosts or another role,
// or less than a third of its time is left.
func (l leaf) good(a authorities, have map[string][]byte, now time.Time) error {
	pair, err := tls.X509KeyPair(have[keyCert], have[keyKey])
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return err
	}
	bundle, usage := a.current.ClientCAs(), x509.ExtKeyUsageClientAuth
	if l.role == mtls.Server {
		bundle, usage = a.current.ServerCAs(), x509.ExtKeyUsageServerAuth
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return err
	}
	if whole := cert.NotAfter.Sub(cert.NotBefore); now.After(cert.NotAfter.Add(-whole / 3)) {
		return fmt.Errorf("it ends at %s", cert.NotAfter.Format(time.RFC3339))
	}
	for _, host := range l.hosts {
		if err := cert.VerifyHostname(hostname(host)); err != nil {
			return err
		}
	}
	if len(cert.DNSNames)+len(cert.IPAddresses) != len(l.hosts) {
		return fmt.Errorf("it is for %v %v, not %v", cert.DNSNames, cert.IPAddresses, l.hosts)
	}
	if want := "role:" + string(l.role); len(cert.URIs) != 1 || cert.URIs[0].Opaque != want {
		return fmt.Errorf("its role is %v, not %s", cert.URIs, l.role)
	}
	return nil
}

// hostname is a host as VerifyHostname takes it: IPv6 addresses in brackets.
func hostname(host string) string {
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return "[" + host + "]"
	}
	return host
}

func sameData(a, b map[string][]byte) bool {
	return maps.EqualFunc(a, b, bytes.Equal)
}
