package commands

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/durable"
)

// loginConfig is the file that `assay login` writes: which server, and as whom.
type loginConfig struct {
	Server      string `json:"server"`
	CA          string `json:"ca"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

func configPath(c *cobra.Command) (string, error) {
	path, err := c.Flags().GetString("config")
	if err != nil {
		return "", err
	}
	if path != "" {
		return path, nil
	}
	if path = os.Getenv("ASSAYCONFIG"); path != "" {
		return path, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration directory: %w", err)
	}
	return filepath.Join(dir, "assay", "config.yaml"), nil
}

// connect makes a client from the file of `assay login`.
func connect(c *cobra.Command) (*client.Client, error) {
	path, err := configPath(c)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, cli.Usage(fmt.Errorf("no server is known: run `assay login URL --credentials DIR` first (%s is not there)", path))
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var cfg loginConfig
	if err := yaml.UnmarshalStrict(text, &cfg); err != nil {
		return nil, cli.Usage(fmt.Errorf("configuration %s: %w", path, err))
	}
	return cfg.client()
}

func (cfg loginConfig) client() (*client.Client, error) {
	return client.Files{CA: cfg.CA, Certificate: cfg.Certificate, Key: cfg.Key}.Client(cfg.Server)
}

func loginCommand() *cobra.Command {
	var cfg loginConfig
	var credentials string
	c := &cobra.Command{
		Use: "login URL", Short: "Remember a server and the certificate to use with it", Args: exactly(1),
		Long: "Checks that the server answers and knows the certificate, then writes the configuration file.\n" +
			"DIR of --credentials is the folder that the server printed at its first start, with ca.pem, cert.pem and key.pem.",
		RunE: func(c *cobra.Command, args []string) error {
			cfg.Server = args[0]
			if credentials != "" {
				files := client.Folder(credentials)
				cfg.CA, cfg.Certificate, cfg.Key = files.CA, files.Certificate, files.Key
			}
			if cfg.CA == "" || cfg.Certificate == "" || cfg.Key == "" {
				return cli.Usage(errors.New("login needs --credentials DIR, or --ca, --cert and --key"))
			}
			for _, path := range []*string{&cfg.CA, &cfg.Certificate, &cfg.Key} {
				absolute, err := filepath.Abs(*path)
				if err != nil {
					return err
				}
				*path = absolute
			}
			return login(c, cfg)
		},
	}
	c.Flags().StringVar(&credentials, "credentials", "", "folder with ca.pem, cert.pem and key.pem")
	c.Flags().StringVar(&cfg.CA, "ca", "", "PEM file of the servers' CA")
	c.Flags().StringVar(&cfg.Certificate, "cert", "", "PEM file of the client certificate")
	c.Flags().StringVar(&cfg.Key, "key", "", "PEM file of its key")
	return c
}

func login(c *cobra.Command, cfg loginConfig) error {
	server, err := cfg.client()
	if err != nil {
		return err
	}
	who, err := server.Server(c.Context())
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Server, err)
	}
	path, err := configPath(c)
	if err != nil {
		return err
	}
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := durable.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	fmt.Fprintf(c.OutOrStdout(), "%s (%s) knows you as %s, %s; written to %s\n", cfg.Server, who.Version, cli.Printable(who.Name), who.Role, path)
	return nil
}
