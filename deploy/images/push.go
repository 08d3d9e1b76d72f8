package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// A Target is where images are published: REGISTRY/NAME:TAG.
type Target struct {
	// Registry is a host, with a port and a path if need be. A registry on the loopback or in a private network is spoken to without TLS where it offers none.
	Registry string
	Tag      string
}

// Check tells what of the target is missing or wrong.
func (t Target) Check() error {
	var mistakes []error
	if t.Registry == "" {
		mistakes = append(mistakes, errors.New("REGISTRY is empty: give host[:port][/path], as in make publish REGISTRY=registry.example/assay TAG=v1"))
	}
	if t.Tag == "" {
		mistakes = append(mistakes, errors.New("TAG is empty: give the tag that the images get, as in make publish REGISTRY=registry.example/assay TAG=v1"))
	}
	if strings.Contains(t.Registry, "://") {
		mistakes = append(mistakes, fmt.Errorf("REGISTRY %q: give host[:port][/path] without a scheme", t.Registry))
	}
	if len(mistakes) == 0 {
		_, err := t.reference("assay")
		mistakes = append(mistakes, err)
	}
	return errors.Join(mistakes...)
}

func (t Target) reference(image string) (name.Tag, error) {
	reference, err := name.NewTag(t.Registry+"/"+image+":"+t.Tag, name.StrictValidation)
	if err != nil {
		return name.Tag{}, fmt.Errorf("REGISTRY %q, TAG %q: %w", t.Registry, t.Tag, err)
	}
	return reference, nil
}

// Push publishes the layout file of an image, with the credentials that docker or podman keep for the registry. It returns the reference by digest.
func Push(ctx context.Context, file string, image Image, target Target) (string, error) {
	reference, err := target.reference(image.Name)
	if err != nil {
		return "", err
	}
	folder, err := os.MkdirTemp("", "assay-push-*")
	if err != nil {
		return "", fmt.Errorf("push %s: %w", image.Name, err)
	}
	defer os.RemoveAll(folder)
	index, err := ReadLayout(file, folder)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", image.Name, err)
	}
	if err := remote.WriteIndex(reference, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return "", fmt.Errorf("push %s to %s: %w", image.Name, reference, err)
	}
	return byDigest(reference, index)
}

func byDigest(reference name.Tag, index v1.ImageIndex) (string, error) {
	digest, err := index.Digest()
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", reference, err)
	}
	return reference.Context().Digest(digest.String()).String(), nil
}
