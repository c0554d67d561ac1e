package relay

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Listener is a port of this machine at which requests of an exporter are taken.
//
// The exporter asks whether its intake is there when it is made, which is before any extension is. So the port is
// open from the time that its number is known, and answers for the extension until that takes over.
type Listener struct {
	http    *http.Server
	handler atomic.Pointer[http.Handler]
}

var listeners sync.Map

// Open returns the address of a new listener.
func Open() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	d := new(Listener)
	d.http = &http.Server{Handler: d, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = d.http.Serve(listener) }()
	listeners.Store(listener.Addr().String(), d)
	return listener.Addr().String(), nil
}

// At returns the listener of an address, nil if Open did not return it.
func At(address string) *Listener {
	d, _ := listeners.Load(address)
	listener, _ := d.(*Listener)
	return listener
}

// Serve has a handler take what comes from now on.
func (d *Listener) Serve(handler http.Handler) { d.handler.Store(&handler) }

// Close waits for the requests under way.
func (d *Listener) Close(ctx context.Context) error { return d.http.Shutdown(ctx) }

// ServeHTTP takes a question whether somebody is there, an empty object, and has data come again.
func (d *Listener) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if handler := d.handler.Load(); handler != nil {
		(*handler).ServeHTTP(w, request)
		return
	}
	question, _ := io.ReadAll(io.LimitReader(request.Body, 3))
	if string(question) == "{}" {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
}
