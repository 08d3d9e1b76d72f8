package platform

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/mtls"
)

// Connection is the operator's client of the server. It changes with the certificates.
type Connection struct {
	mu     sync.Mutex
	client *client.Client
	made   [sha256.Size]byte
}

// credentials are what a connection is made of.
type credentials struct {
	address       string // HOST:PORT
	ca, cert, key []byte // PEM
}

// Get returns the client, or nil before there is one.
func (c *Connection) Get() *client.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client
}

// use makes a client of credentials, unless it is made of them already.
func (c *Connection) use(k credentials) error {
	digest := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", k.address, k.ca, k.cert, k.key))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil && digest == c.made {
		return nil
	}
	host, _, err := net.SplitHostPort(k.address)
	if err != nil {
		return fmt.Errorf("server address %q: %w", k.address, err)
	}
	pair, err := tls.X509KeyPair(k.cert, k.key)
	if err != nil {
		return fmt.Errorf("the operator's certificate: %w", err)
	}
	config, err := mtls.Peer{Host: host, Certificate: mtls.Fixed(&pair)}.TrustCA(k.ca)
	if err != nil {
		return err
	}
	made, err := client.New(client.Config{URL: "https://" + k.address, TLS: config})
	if err != nil {
		return err
	}
	c.client, c.made = made, digest
	return nil
}

// drop forgets the client: what it was made of is gone.
func (c *Connection) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client = nil
}

// problem is something that a person has to do. It becomes a condition.
type problem struct {
	condition string
	reason    string
	message   string
}

func (p *problem) Error() string { return p.message }

func asProblem(err error) (*problem, bool) {
	var p *problem
	ok := errors.As(err, &p)
	return p, ok
}
