package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/conf"
	"github.com/assay-project/assay/tpm"
)

// Config is the agent's configuration: the keys of agent.yaml. DefaultConfig has the defaults.
type Config struct {
	// Server is the server's native API, HOST or HOST:PORT (port 8443); https:// may stand before it.
	Server string `json:"server"`
	// Registrar is HOST:PORT of the registrar's TLS port, with or without https://. Default: the server's host, and the port that the server names. Facing a Keylime
	// registrar it is required, and may be a URL http://HOST:PORT for one without TLS.
	Registrar string `json:"registrar"`
	// CA is a file with the CA certificates (PEM) that prove the server. A join token serves instead.
	CA string `json:"ca"`
	// JoinToken pins the server's CA and allows a name of one's own. JoinTokenFile is a file that holds it.
	JoinToken     conf.Secret `json:"joinToken"`
	JoinTokenFile string      `json:"joinTokenFile"`
	// TokenFile is, in Kubernetes, the projected service account token (audience assay) that claims the node for this agent. It is read for each use.
	// An agent without a TPM needs it or a join token.
	TokenFile string `json:"tokenFile"`
	// ID is the agent's name. Default: the hash of the endorsement key; without a TPM, the host's name. Another one needs a join token or a person's approval.
	ID attest.AgentID `json:"id"`

	// Listen is where the agent answers verifiers, and Contact what it tells the registrar of that. Defaults: the address that this
	// machine uses towards the server, and the port of Listen.
	Listen  string  `json:"listen"`
	Contact Contact `json:"contact"`
	// Metrics is where metrics and health are served, or empty.
	Metrics string `json:"metrics"`

	// TPM is the TPM: a device, or swtpm:PATH, the socket of an emulator.
	TPM string `json:"tpm"`
	// EK and AK are the kinds of the two keys: rsa2048 or ecc256, the EK also rsa3072 or ecc384. A changed AK is a new one, which a
	// person may have to approve; a changed EK makes another agent.
	EK string `json:"ek"`
	AK string `json:"ak"`
	// EndorsementAuthFile is a file that holds the password of the TPM's endorsement hierarchy, for TPMs that have one; a newline at its end does not count.
	// Only its owner may have rights to it.
	EndorsementAuthFile string `json:"endorsementAuthFile"`
	// IMAList and BootLog are the kernel's logs; an empty path leaves one out.
	IMAList string `json:"imaList"`
	BootLog string `json:"bootLog"`

	// IMAPolicy is the IMA policy that the agent installs for the next boot, if any.
	IMAPolicy IMAPolicy `json:"imaPolicy"`

	// StateDir keeps the AK's wrapped blob and the agent's other keys.
	StateDir string `json:"stateDir"`
	// User is who the process becomes after its start as root; empty stays root. It means nothing when the agent is not started as root.
	User string `json:"user"`
	// Heartbeat is the interval of heartbeats, 1s to 10m.
	Heartbeat conf.Duration `json:"heartbeat"`

	// Keylime says that the registrar and the verifier are Keylime's: no native API is dialled, and ClientCA (PEM) is required.
	Keylime bool `json:"keylime"`
	// ClientCA is a file with the CA certificates of a Keylime verifier and tenant. Assay's server tells its own.
	ClientCA string `json:"clientCA"`
}

// IMAPolicy says which of Assay's IMA policies the agent installs, and where. It happens once, at the start and with the rights of the start.
type IMAPolicy struct {
	// Install is None (nothing is touched), Host or Containers.
	Install string `json:"install"`
	// Path is where the init of the next boot finds it. A file there that is none of Assay's stays as it is.
	Path string `json:"path"`
	// Load has this boot's kernel load the file too, once per boot, where it still takes a policy.
	Load bool `json:"load"`
}

// Contact is where others reach the agent. Address is a name or an IP address of any family.
type Contact struct {
	Address string `json:"address"`
	Port    int    `json:"port"`
}

const (
	defaultServerPort    = "8443"
	defaultRegistrarPort = "8891"
	minHeartbeat         = time.Second
	maxHeartbeat         = 10 * time.Minute
)

// DefaultConfig returns the defaults of every key.
func DefaultConfig() Config {
	return Config{
		Listen:    "0.0.0.0:9002",
		Metrics:   "127.0.0.1:9465",
		TPM:       "/dev/tpmrm0",
		EK:        "rsa2048",
		AK:        "rsa2048",
		IMAList:   "/sys/kernel/security/ima/ascii_runtime_measurements",
		BootLog:   "/sys/kernel/security/tpm0/binary_bios_measurements",
		StateDir:  "/var/lib/assay-agent",
		User:      "assay",
		Heartbeat: conf.Duration(30 * time.Second),
		IMAPolicy: IMAPolicy{Install: policyNone, Path: defaultPolicyPath},
	}
}

// Check reports every mistake that can be found without looking at the machine, joined.
func (c *Config) Check() error {
	var mistakes []error
	mistake := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	if c.Keylime {
		mistakes = append(mistakes, c.checkKeylime()...)
	} else {
		mistakes = append(mistakes, c.checkNative()...)
	}
	if c.ID != "" {
		if _, err := attest.ParseAgentID(string(c.ID)); err != nil {
			mistake("id: %w", err)
		}
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		mistake("listen: %q is not HOST:PORT", c.Listen)
	}
	if _, _, err := net.SplitHostPort(c.Metrics); err != nil && c.Metrics != "" {
		mistake("metrics: %q is not HOST:PORT", c.Metrics)
	}
	if c.Contact.Port < 0 || c.Contact.Port > 65535 {
		mistake("contact.port: %d is not a port", c.Contact.Port)
	}
	if known := []tpm.Algorithm{tpm.RSA2048, tpm.RSA3072, tpm.ECC256, tpm.ECC384}; !slices.Contains(known, tpm.Algorithm(c.EK)) {
		mistake("ek: %q is not one of %s", c.EK, known)
	}
	if known := []tpm.Algorithm{tpm.RSA2048, tpm.ECC256}; !slices.Contains(known, tpm.Algorithm(c.AK)) {
		mistake("ak: %q is not one of %s", c.AK, known)
	}
	if c.TPM == "" {
		mistake("tpm: no TPM is named")
	}
	if c.StateDir == "" {
		mistake("stateDir: no directory is named")
	}
	if beat := time.Duration(c.Heartbeat); beat < minHeartbeat || beat > maxHeartbeat {
		mistake("heartbeat: %s is not between %s and %s", beat, minHeartbeat, maxHeartbeat)
	}
	mistakes = append(mistakes, c.IMAPolicy.check()...)
	return errors.Join(mistakes...)
}

// kinds names the two keys as the TPM's package does.
func (c *Config) kinds() tpm.Kinds {
	return tpm.Kinds{EK: tpm.Algorithm(c.EK), AK: tpm.Algorithm(c.AK)}
}

func (c *Config) checkNative() (mistakes []error) {
	mistake := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	if c.Server == "" {
		mistake("server: the server is not named (facing a Keylime server, set keylime: true)")
	}
	if strings.Contains(bare(c.Server), "/") {
		mistake("server: %q is not HOST, HOST:PORT or https://HOST:PORT", c.Server)
	}
	if strings.Contains(bare(c.Registrar), "/") {
		mistake("registrar: %q is not HOST:PORT or https://HOST:PORT; without TLS only facing Keylime (keylime: true)", c.Registrar)
	}
	if c.ClientCA != "" {
		mistake("clientCA: is for keylime: true; the server tells its own")
	}
	if c.JoinToken != "" && c.JoinTokenFile != "" {
		mistake("joinToken, joinTokenFile: set one of them")
	}
	if c.CA == "" && c.JoinToken == "" && c.JoinTokenFile == "" {
		mistake("ca: nothing says which server to trust; set ca, or joinToken from `assay token create`")
	}
	if c.JoinToken != "" {
		if _, err := api.ParseJoinToken(c.JoinToken.Reveal()); err != nil {
			mistake("joinToken: %w", err)
		}
	}
	return mistakes
}

func (c *Config) checkKeylime() (mistakes []error) {
	mistake := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	if c.Registrar == "" {
		mistake("registrar: Keylime's registrar is not named")
	}
	if c.ClientCA == "" {
		mistake("clientCA: the CA of Keylime's verifier and tenant is not named")
	}
	if c.Server != "" || c.JoinToken != "" || c.JoinTokenFile != "" || c.TokenFile != "" {
		mistake("server, joinToken, joinTokenFile, tokenFile: do not go with keylime: true")
	}
	if c.CA == "" && !strings.HasPrefix(c.Registrar, "http://") {
		mistake("ca: the CA of Keylime's registrar is not named")
	}
	return mistakes
}

// bare is an address without its scheme.
func bare(address string) string {
	return strings.TrimSuffix(strings.TrimPrefix(address, "https://"), "/")
}

// serverAddress is HOST:PORT of the native API.
func (c *Config) serverAddress() string { return withPort(bare(c.Server), defaultServerPort) }

// registrarURL returns the base URL of the registrar; port is the one that the server names, where the configuration names none.
func (c *Config) registrarURL(port int) string {
	switch {
	case strings.HasPrefix(c.Registrar, "http://"):
		return strings.TrimSuffix(c.Registrar, "/")
	case c.Registrar != "":
		return "https://" + withPort(bare(c.Registrar), defaultRegistrarPort)
	}
	host, _, err := net.SplitHostPort(c.serverAddress())
	if err != nil {
		host = c.Server
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// withPort adds a port to an address that has none.
func withPort(address, port string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), port)
}

// secrets is what the agent reads from files that its user may not read, so before it drops its rights.
type secrets struct {
	serverCA []byte
	clientCA []byte
	token    *api.JoinToken
	// endorsementAuth is the password of the endorsement hierarchy, or nil.
	endorsementAuth []byte
}

func (c *Config) readSecrets() (s secrets, err error) {
	if s.serverCA, err = readOptional(c.CA, "ca"); err != nil {
		return s, err
	}
	if s.clientCA, err = readOptional(c.ClientCA, "clientCA"); err != nil {
		return s, err
	}
	if s.endorsementAuth, err = readEndorsementAuth(c.EndorsementAuthFile); err != nil {
		return s, err
	}
	text, key := c.JoinToken.Reveal(), "joinToken"
	if c.JoinTokenFile != "" {
		content, err := readOptional(c.JoinTokenFile, "joinTokenFile")
		if err != nil {
			return s, err
		}
		text, key = string(content), "joinTokenFile"
	}
	if text == "" {
		return s, nil
	}
	token, err := api.ParseJoinToken(text)
	if err != nil {
		return s, fmt.Errorf("key %s: %w", key, err)
	}
	s.token = &token
	return s, nil
}

func readOptional(path, key string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w (key %s)", err, key)
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("%s is empty (key %s)", path, key)
	}
	return text, nil
}

// keyEndorsementAuth is the configuration's key for the password of the endorsement hierarchy.
const keyEndorsementAuth = "endorsementAuthFile"

// readEndorsementAuth reads the password of the endorsement hierarchy. Who has it can make keys and use the endorsement key, so others must not read it.
func readEndorsementAuth(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w (key %s)", err, keyEndorsementAuth)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w (key %s)", err, keyEndorsementAuth)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to others than its owner (mode %04o): chmod 600 it (key %s)", path, mode, keyEndorsementAuth)
	}
	text, err := io.ReadAll(io.LimitReader(file, tpm.MaxAuthBytes+2))
	if err != nil {
		return nil, fmt.Errorf("%w (key %s)", err, keyEndorsementAuth)
	}
	password := bytes.TrimSuffix(text, []byte("\n"))
	switch {
	case len(password) == 0:
		return nil, fmt.Errorf("%s holds no password; leave the key out where the hierarchy has none (key %s)", path, keyEndorsementAuth)
	case len(password) > tpm.MaxAuthBytes:
		return nil, fmt.Errorf("%s holds more than the %d bytes that a TPM takes (key %s)", path, tpm.MaxAuthBytes, keyEndorsementAuth)
	}
	return password, nil
}
