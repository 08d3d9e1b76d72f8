// Package serve assembles the control plane: authorities, store, registrar, verifier and the native API in one process.
//
// It holds no rule of its own; it reads the configuration, makes what a first start needs and hands each role what it asks for.
package serve

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/conf"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier"
)

// Config is the documented configuration of `assay server`: YAML, each key also by environment (ASSAY_STATE_DIR, ASSAY_LISTEN_API, ...).
type Config struct {
	// StateDir holds the database, the certificate authorities and the first administrator's certificate.
	StateDir string `json:"stateDir"`
	// Roles to run: registrar, verifier.
	Roles []string `json:"roles"`
	// Names are the DNS names and addresses under which agents and people reach this server; they go into its certificate.
	// The names of the loopback are always in it.
	Names []string `json:"names"`
	// Listen addresses; an empty one is not served.
	Listen Listen `json:"listen"`
	// Interval between two rounds of a node, "30s"; 1s at the least.
	Interval conf.Duration `json:"interval"`
	// Endorsement is Required (default) or AllowFirstUse: whether a person may enrol a machine whose EK no vendor root endorses.
	Endorsement string `json:"endorsement"`
	// VendorRoots believes the TPM vendors' certificates that the program brings along (endorsement/vendors); default true.
	VendorRoots bool `json:"vendorRoots"`
	// KeylimeAgents serves registration without TLS on Listen.Plain, for Keylime's own pull agents.
	KeylimeAgents bool `json:"keylimeAgents"`
	// Reimage is Approval (default: a new AK of an enrolled TPM waits for a person) or Allow; a node may have its own.
	Reimage string `json:"reimage"`
	// Evidence says how long evidence is kept.
	Evidence Evidence `json:"evidence"`
	// Certificates are supplied from files. Without them the server makes its own authorities; with them it has none, and whoever supplies the
	// files issues every certificate. They are read again when they change.
	Certificates Certificates `json:"certificates"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `json:"logLevel"`
}

// Evidence of a machine's boots: quotes, measurement lists, boot logs.
type Evidence struct {
	// Retention is how long the evidence of a boot is kept after the boot ended, "2160h" (90 days) by default; 24h at the least, 0 for ever.
	// The evidence of a machine's current boot and the history of its verdicts are always kept.
	Retention conf.Duration `json:"retention"`
}

// Listen are the addresses that the server listens on.
type Listen struct {
	// API is the native API, Registrar Keylime's registrar protocol over TLS, Plain the same without TLS (only with KeylimeAgents).
	API       string `json:"api"`
	Registrar string `json:"registrar"`
	Plain     string `json:"plain"`
	// Metrics serves /metrics, /healthz (the process lives) and /readyz (rounds are run, the database answers) without TLS.
	Metrics string `json:"metrics"`
}

// Certificates names PEM files, all of them or none. A bundle may hold several authorities: in a rotation the old and the new one.
type Certificates struct {
	// Server is presented on the ports, Client, of the role verifier-client, towards agents and the registrar.
	Server Pair `json:"server"`
	Client Pair `json:"client"`
	// ServerCAs and ClientCAs are the authorities of servers, and of administrators and services.
	ServerCAs string `json:"serverCAs"`
	ClientCAs string `json:"clientCAs"`
}

// Pair names the files of a certificate with its intermediates and of its key.
type Pair struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

func (c Certificates) set() bool { return c != Certificates{} }

func (c Certificates) files() mtls.Files {
	return mtls.Files{Server: mtls.Pair(c.Server), Client: mtls.Pair(c.Client), ServerCAs: c.ServerCAs, ClientCAs: c.ClientCAs}
}

// missing names the files that are not named, in the order of the configuration.
func (c Certificates) missing() []string {
	if !c.set() {
		return nil
	}
	var missing []string
	for _, file := range [][2]string{
		{"server.certificate", c.Server.Certificate}, {"server.key", c.Server.Key}, {"client.certificate", c.Client.Certificate},
		{"client.key", c.Client.Key}, {"serverCAs", c.ServerCAs}, {"clientCAs", c.ClientCAs},
	} {
		if file[1] == "" {
			missing = append(missing, "certificates."+file[0])
		}
	}
	return missing
}

// Default returns the configuration of a server without a file.
func Default() Config {
	return Config{
		StateDir: "/var/lib/assay", Roles: []string{"registrar", "verifier"}, Interval: conf.Duration(30 * time.Second), Endorsement: "Required", VendorRoots: true, Reimage: "Approval", LogLevel: "info",
		Evidence: Evidence{Retention: conf.Duration(90 * 24 * time.Hour)},
		Listen:   Listen{API: ":8443", Registrar: ":8891", Plain: ":8890", Metrics: "127.0.0.1:9464"},
	}
}

// Check reports every mistake at once.
func (c Config) Check() error {
	var mistakes []error
	mistake := func(format string, values ...any) { mistakes = append(mistakes, fmt.Errorf(format, values...)) }
	if c.StateDir == "" {
		mistake("stateDir: is empty")
	}
	for _, role := range c.Roles {
		if !slices.Contains([]string{"registrar", "verifier"}, role) {
			mistake("roles: %q is none of registrar, verifier", role)
		}
	}
	if !slices.Contains(c.Roles, "registrar") || !slices.Contains(c.Roles, "verifier") {
		mistake("roles: registrar and verifier run in one process; both are needed")
	}
	if time.Duration(c.Interval) < time.Second {
		mistake("interval: %s is below 1s", c.Interval)
	}
	if !slices.Contains([]string{"Required", "AllowFirstUse"}, c.Endorsement) {
		mistake("endorsement: %q is neither Required nor AllowFirstUse", c.Endorsement)
	}
	if kept := time.Duration(c.Evidence.Retention); kept != 0 && kept < verifier.MinEvidenceRetention {
		mistake("evidence.retention: %s is below %s; 0 keeps evidence for ever", c.Evidence.Retention, verifier.MinEvidenceRetention)
	}
	if !slices.Contains([]string{"Allow", "Approval"}, c.Reimage) {
		mistake("reimage: %q is neither Allow nor Approval", c.Reimage)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		mistake("logLevel: %q is none of debug, info, warn, error", c.LogLevel)
	}
	for name, address := range map[string]string{"listen.api": c.Listen.API, "listen.registrar": c.Listen.Registrar, "listen.plain": c.Listen.Plain, "listen.metrics": c.Listen.Metrics} {
		if address == "" && (name == "listen.api" || name == "listen.registrar") {
			mistake("%s: is empty", name)
		}
		if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
			mistake("%s: %w", name, err)
		}
	}
	for _, name := range c.Certificates.missing() {
		mistake("%s: is empty; supplied certificates need all six files", name)
	}
	for _, name := range c.Names {
		if strings.ContainsAny(name, " /:") && net.ParseIP(name) == nil {
			mistake("names: %q is neither a host name nor an address", name)
		}
	}
	return errors.Join(mistakes...)
}
