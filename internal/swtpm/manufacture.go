package swtpm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The files of a CA directory, as swtpm_localca names them.
const (
	issuerFile = "issuercert.pem"
	rootFile   = "swtpm-localca-rootca-cert.pem"
)

// stateFile is where swtpm keeps what survives a power cut.
const stateFile = "tpm2-00.permall"

// ErrManufactured says that a state directory already holds a TPM: manufacturing again would silently give the machine another identity.
var ErrManufactured = errors.New("a TPM was manufactured here before")

// Options say what kind of TPM to manufacture.
type Options struct {
	// StateDir receives the TPM's state; it is made where it is missing.
	StateDir string
	// CADir holds the CA that signs the EK certificates: a root and one intermediate, both made at first use. Give several TPMs the same CADir and
	// one root endorses them all.
	CADir string
	// Name becomes the common name in the certificates' subject; it is "assay" by default.
	Name string
	// RSABits is the size of the RSA EK, 2048 (default) or 3072. The TPM also gets a P-384 EK: swtpm_setup 0.7.1 makes no P-256 one, so a test
	// that needs it lets the TPM derive it from the template, without certificate.
	RSABits int
	// Banks are the PCR banks to activate, by kernel name; sha1, sha256, sha384 and sha512 by default.
	Banks []string
}

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = "assay"
	}
	if o.RSABits == 0 {
		o.RSABits = 2048
	}
	if len(o.Banks) == 0 {
		o.Banks = []string{"sha1", "sha256", "sha384", "sha512"}
	}
	var err error
	if o.StateDir, err = filepath.Abs(o.StateDir); err != nil {
		return Options{}, err
	}
	if o.CADir, err = filepath.Abs(o.CADir); err != nil {
		return Options{}, err
	}
	if strings.ContainsAny(o.StateDir+o.CADir, " \n,") {
		return Options{}, fmt.Errorf("directories %q and %q: swtpm takes no spaces or commas in them", o.StateDir, o.CADir)
	}
	return o, nil
}

// Manufacture makes a TPM in StateDir as a vendor would: it creates the endorsement keys, has them certified by the CA, and stores the certificates in the
// TPM's NV memory. It takes a few seconds. ErrManufactured is returned where StateDir already holds one.
func Manufacture(ctx context.Context, options Options) error {
	o, err := options.withDefaults()
	if err != nil {
		return fmt.Errorf("manufacture TPM: %w", err)
	}
	if _, err := os.Stat(filepath.Join(o.StateDir, stateFile)); err == nil {
		return fmt.Errorf("manufacture TPM in %s: %w", o.StateDir, ErrManufactured)
	}
	for _, dir := range []string{o.StateDir, o.CADir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("manufacture TPM: %w", err)
		}
	}
	config, err := writeConfig(o)
	if err != nil {
		return fmt.Errorf("manufacture TPM: %w", err)
	}
	setup := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--tpmstate", o.StateDir, "--config", config,
		"--create-ek-cert", "--lock-nvram", "--not-overwrite",
		"--pcr-banks", strings.Join(o.Banks, ","), "--rsa-keysize", fmt.Sprint(o.RSABits), "--vmid", o.Name)
	if output, err := setup.CombinedOutput(); err != nil {
		return fmt.Errorf("manufacture TPM: swtpm_setup: %w: %s", err, tail(output))
	}
	return nil
}

// writeConfig writes the two configuration files of the tools, which want absolute paths, and returns the first one's path.
func writeConfig(o Options) (string, error) {
	tool, err := exec.LookPath("swtpm_localca")
	if err != nil {
		return "", err
	}
	caConfig, setupConfig, caOptions := filepath.Join(o.CADir, "localca.conf"), filepath.Join(o.StateDir, "setup.conf"), filepath.Join(o.CADir, "localca.options")
	for path, text := range map[string]string{
		caConfig: fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/%[2]s\ncertserial = %[1]s/certserial\n", o.CADir, issuerFile),
		setupConfig: fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n",
			tool, caConfig, caOptions),
		caOptions: "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return setupConfig, nil
}

// Authorities returns the PEM of the CA in a directory that Manufacture used: the root, then the intermediate that signs EK certificates.
func Authorities(caDir string) ([]byte, error) {
	var text []byte
	for _, name := range []string{rootFile, issuerFile} {
		part, err := os.ReadFile(filepath.Join(caDir, name))
		if err != nil {
			return nil, fmt.Errorf("authorities of EK certificates: %w", err)
		}
		text = append(text, part...)
	}
	return text, nil
}

// tail returns the end of a program's output, enough to see what went wrong.
func tail(output []byte) string {
	const keep = 800
	if len(output) > keep {
		output = output[len(output)-keep:]
	}
	return strings.TrimSpace(string(output))
}
