# A form, a redirect and a session: what applications behind a stage usually are.
import sys

from flask import Flask, abort, redirect, request, session, url_for
from werkzeug.serving import make_server

proxied = sys.argv[1] == "true"
app = Flask(__name__)
app.secret_key = "for a test"


@app.get("/form")
def form():
    action = url_for("submit") if proxied else "submit"
    return f'<form method="post" action="{action}"><input name="name"></form>'


@app.post("/submit")
def submit():
    session["name"] = request.form["name"]
    session["forms"] = session.get("forms", 0) + 1
    return redirect(url_for("done"))


@app.get("/done")
def done():
    return f"<p>{session['name']}, form {session['forms']}</p>"


@app.get("/secret")
def secret():
    abort(403)


if proxied:
    from werkzeug.middleware.proxy_fix import ProxyFix

    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)

server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
