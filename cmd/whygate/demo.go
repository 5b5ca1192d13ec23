package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whygate/whygate/examples"
	"github.com/whygate/whygate/gateway"
)

func (a *app) demoCommand() *cobra.Command {
	o := serveOptions{}
	var sample string
	c := &cobra.Command{
		Use:   "demo [DIR]",
		Short: "Run the gateway in front of a sample shop, and show what it does",
		Long: `Runs the gateway with the documents of examples/shop (or of DIR) in front of a small
sample shop, with fresh keys for two applications. It makes a call that passes and one
that is refused, tells why, and leaves you four lines to try. Ctrl-C drains.`,
		Example: "  whygate demo",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("demo takes one folder")
			}
			if err := os.MkdirAll(o.data, 0o750); err != nil {
				return environment(err)
			}
			docs := filepath.Join(o.data, "documents")
			if len(args) == 1 {
				docs = args[0]
			} else if err := extractShop(docs); err != nil {
				return environment(err)
			}
			ln, err := net.Listen("tcp", sample)
			if err != nil {
				return environment(gateway.ListenError(sample, err))
			}
			go serveSample(context.WithoutCancel(cmd.Context()), ln)
			keys, keyFile, err := demoKeys(o.data)
			if err != nil {
				return environment(err)
			}
			o.paths, o.listenSet = []string{docs, keyFile}, cmd.Flags().Changed("listen")
			return a.serve(cmd.Context(), &o, func(n *node) { a.showDemo(n, keys, docs) })
		},
	}
	c.Flags().StringVar(&o.listen, "listen", defaultListen, "address to serve on")
	c.Flags().StringVar(&o.admin, "admin", defaultAdmin, "address of the admin API")
	c.Flags().StringVar(&o.data, "data", filepath.Join(defaultData(), "demo"), "directory for records, keys and documents")
	c.Flags().StringVar(&sample, "sample", "127.0.0.1:9000", "address of the sample shop")
	o.commonFlags(c)
	return c
}

func extractShop(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return fs.WalkDir(examples.Shop, "shop", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		target := filepath.Join(dir, filepath.Base(name))
		if _, err := os.Stat(target); err == nil {
			return nil // somebody may have changed it: that is what it is for
		}
		b, err := examples.Shop.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, 0o640)
	})
}

// demoKeys makes a key for each application of the demonstration.
func demoKeys(dir string) (keys map[string]string, file string, err error) {
	keys = map[string]string{}
	var docs []string
	for _, app := range []string{"bistro", "acme-shop"} {
		key, doc, err := newCredential(app, "", "")
		if err != nil {
			return nil, "", err
		}
		keys[app] = key
		docs = append(docs, doc)
	}
	file = filepath.Join(dir, "keys.yaml")
	return keys, file, os.WriteFile(file, []byte(strings.Join(docs, "---\n")), 0o640)
}

// showDemo makes a call that passes and one that is refused, and says what to try.
func (a *app) showDemo(n *node, keys map[string]string, docs string) {
	base := "http://" + n.gateway.Addresses()[0].String()
	s := a.style
	fmt.Fprintf(a.out, "%s serves at %s, its admin API at %s\n", s.strong("Whygate"), base, n.opts.admin)
	fmt.Fprintf(a.out, "documents: %s (change one: it is taken over within a second)\n\n", docs)

	fmt.Fprintln(a.out, s.strong("A call that passes:"))
	a.demoCall("GET", base+"/prod/orders", keys["bistro"])
	fmt.Fprintln(a.out, s.strong("A call that is refused, as its caller reads it:"))
	a.demoCall("POST", base+"/prod/orders", keys["acme-shop"])
	fmt.Fprintln(a.out, s.strong("And as `whygate why last` tells it:"))
	why := *a
	why.data, why.admin = n.opts.data, ""
	if call, err := why.findCall(context.Background(), "last"); err == nil {
		why.tellCall(call)
	}
	fmt.Fprintln(a.out, s.strong("Try in another terminal:"))
	for _, try := range [][2]string{
		{"allowed", fmt.Sprintf("curl -i -H 'X-Api-Key: %s' %s/prod/orders", keys["bistro"], base)},
		{"wrong key", fmt.Sprintf("curl -i -H 'X-Api-Key: wg_12345678_wrong' %s/prod/orders", base)},
		{"pending subscription", fmt.Sprintf("curl -i -H 'X-Api-Key: %s' -d '{\"item\":\"lamp\"}' %s/prod/orders", keys["acme-shop"], base)},
		{"over the limit", fmt.Sprintf("for i in 1 2 3 4 5 6; do curl -i -H 'X-Api-Key: %s' %s/sandbox/orders; done", keys["acme-shop"], base)},
	} {
		fmt.Fprintf(a.out, "  %s\n  %s\n", s.soft("# "+try[0]), try[1])
	}
	data := ""
	if n.opts.data != defaultData() {
		data = " --data " + shellWord(n.opts.data)
	}
	fmt.Fprintf(a.out, "  %s\n  %[2]s why last%[3]s\n  %[2]s calls --refused%[3]s\nCtrl-C drains and ends.\n", s.soft("# what became of them"), shellWord(os.Args[0]), data)
}

func (a *app) demoCall(method, url, key string) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return
	}
	req.Header.Set("X-Api-Key", key)
	fmt.Fprintf(a.out, "  %s %s\n", method, url)
	res, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		fmt.Fprintln(a.out, "  ", err)
		return
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	fmt.Fprintln(a.out, "  "+a.style.soft("< "+res.Status))
	for line := range strings.SplitSeq(strings.TrimSpace(string(body)), "\n") {
		fmt.Fprintln(a.out, "  "+a.style.soft("< "+line))
	}
	fmt.Fprintln(a.out)
}
