// Command tool is what runs in the pods of the cluster tests: a few small acts, each of which prints what came of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const patience = 20 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tool:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want wait, serve, get, resolve, cat or tpm")
	}
	acts := map[string]func(string) error{"wait": wait, "serve": serve, "get": get, "resolve": resolve, "cat": cat, "tpm": tpm}
	act, known := acts[args[0]]
	if !known {
		return fmt.Errorf("unknown act %q", args[0])
	}
	argument := ""
	if len(args) > 1 {
		argument = args[1]
	}
	return act(argument)
}

// wait ends when it is asked to.
func wait(string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	return nil
}

// serve answers everything with the name of its host, on an address.
func serve(address string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: address, ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, host) }),
	}
	go func() {
		wait("")
		server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func get(url string) error {
	client := &http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, io.LimitReader(answer.Body, 1<<20))
	return err
}

func resolve(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		fmt.Println(a)
	}
	return nil
}

func cat(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(os.Stdout, f)
	return err
}

// tpm sends TPM2_ReadClock (TPM 2.0 Part 3, 29.1) to a TPM's socket or device and prints the response code.
func tpm(path string) error {
	device, err := openTPM(path)
	if err != nil {
		return err
	}
	defer device.Close()
	if _, err := device.Write([]byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, err := device.Read(answer)
	if err != nil {
		return err
	}
	if n < 10 {
		return fmt.Errorf("an answer of %d bytes", n)
	}
	fmt.Printf("%x\n", answer[6:10])
	return nil
}

// openTPM opens a device in blocking mode: a TPM has no answer before it has one.
func openTPM(path string) (io.ReadWriteCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeSocket != 0 {
		return net.DialTimeout("unix", path, patience)
	}
	fd, err := syscall.Open(path, syscall.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
