// Command mkimages writes Assay's images as OCI layouts and pushes them; make build and make publish run it.
//
//	mkimages build --programs DIR --out DIR --version V --cache DIR [IMAGE...]
//	mkimages push  --in DIR --registry HOST[/PATH] --tag TAG [IMAGE...]
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/deploy/images"
	"github.com/assay-project/assay/internal/cli"
)

func main() { cli.Main(root()) }

func root() *cobra.Command {
	cmd := &cobra.Command{Use: "mkimages", Short: "Make and publish Assay's container images"}
	cmd.AddCommand(build(), push())
	return cmd
}

// options of build.
type options struct{ programs, out, version, cache string }

func build() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "build [IMAGE...]", Short: "Write each image as an OCI layout for all architectures",
		RunE: func(cmd *cobra.Command, names []string) error {
			chosen, err := choose(names)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(o.out, 0o755); err != nil {
				return fmt.Errorf("make folder of images: %w", err)
			}
			for _, image := range chosen {
				if err := write(cmd, image, o); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.programs, "programs", "build/linux", "folder of the programs, as ARCHITECTURE/NAME")
	cmd.Flags().StringVar(&o.out, "out", "build/images", "folder that the layouts are written to, as NAME.tar")
	cmd.Flags().StringVar(&o.version, "version", "dev", "version in the images' labels and names")
	cmd.Flags().StringVar(&o.cache, "cache", ".cache/debian", "folder that keeps Debian packages")
	return cmd
}

func write(cmd *cobra.Command, image images.Image, o options) error {
	files := map[string][]images.File{}
	for _, architecture := range images.Architectures() {
		var err error
		if len(image.Packages) > 0 {
			files[architecture], err = image.DebianFiles(cmd.Context(), images.Apt{Cache: o.cache, Architecture: architecture})
		} else {
			files[architecture], err = image.OwnFiles(o.programs, architecture)
		}
		if err != nil {
			return err
		}
	}
	index, err := image.Index(o.version, files)
	if err != nil {
		return err
	}
	file := filepath.Join(o.out, image.Name+".tar")
	if err := image.WriteLayout(file, o.version, index); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return fmt.Errorf("digest of %s: %w", image.Name, err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s  %s/%s:%s@%s\n", file, images.LocalRegistry, image.Name, o.version, digest)
	return nil
}

func push() *cobra.Command {
	var in string
	var target images.Target
	cmd := &cobra.Command{
		Use: "push [IMAGE...]", Short: "Push the layouts to a registry",
		RunE: func(cmd *cobra.Command, names []string) error {
			chosen, err := choose(names)
			if err != nil {
				return err
			}
			if err := target.Check(); err != nil {
				return cli.Usage(err)
			}
			for _, image := range chosen {
				reference, err := images.Push(cmd.Context(), filepath.Join(in, image.Name+".tar"), image, target)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), reference)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&in, "in", "build/images", "folder of the layouts")
	cmd.Flags().StringVar(&target.Registry, "registry", "", "host[:port][/path] that the images go to")
	cmd.Flags().StringVar(&target.Tag, "tag", "", "tag that the images get")
	return cmd
}

// choose returns the images of these names, all of them without names.
func choose(names []string) ([]images.Image, error) {
	if len(names) == 0 {
		return images.Catalog(), nil
	}
	var chosen []images.Image
	for _, name := range names {
		image, err := images.Find(name)
		if err != nil {
			return nil, cli.Usage(err)
		}
		chosen = append(chosen, image)
	}
	return chosen, nil
}
